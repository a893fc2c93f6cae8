"""Uploads under a digest: resumable, checked, and visible only when whole.

Bytes arrive in chunks and are flushed in parts of `part_bytes`; an upload that breaks off keeps its full parts. The
object is made of the parts in one pass that also hashes them: what is checked is what is kept, whoever wrote the parts.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from gramserve.errors import InvalidInput, Reason
from gramserve.store import layout
from gramserve.store.condemned import rescue
from gramserve.store.faults import unavailable
from gramserve.store.objects import ObjectMissing, ObjectStore

PART_BYTES = 8 * 1024 * 1024
MAX_BYTES = 4 * 1024**3


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """Whether the bytes of a digest are there, and the offset from which to send what is missing."""

    complete: bool
    next_offset: int


class Uploads:
    """Takes bytes into `objects`; `scope` (a laboratory's id or "optimizer") keeps the parts of strangers apart."""

    def __init__(self, objects: ObjectStore, *, part_bytes: int = PART_BYTES, max_bytes: int = MAX_BYTES) -> None:
        self._objects = objects
        self._part_bytes = part_bytes
        self._max_bytes = max_bytes

    async def status(self, scope: str, sha256: str, final_path: str) -> UploadStatus:
        """How much of `sha256` is there already; `next_offset` is its size when it is complete."""
        size = await self._objects.size(final_path)
        if size is not None:
            await rescue(self._objects, final_path)
            return UploadStatus(complete=True, next_offset=size)
        return UploadStatus(complete=False, next_offset=sum((await self._parts(scope, sha256)).values()))

    async def open(
        self, scope: str, sha256: str, final_path: str, *, offset: int = 0, size_bytes: int | None = None
    ) -> Upload:
        """Begins (offset 0) or resumes an upload that ends as the object `final_path`.

        `offset` is 0 or the `next_offset` of `status`: else InvalidInput (WRONG_OFFSET). `size_bytes` is what the
        client says the whole measures: over the limit it is InvalidInput (UPLOAD_TOO_LARGE).
        """
        if size_bytes is not None and size_bytes > self._max_bytes:
            raise _too_large(self._max_bytes)
        complete = await self._objects.size(final_path) is not None
        if complete:
            await rescue(self._objects, final_path)
        parts = await self._parts(scope, sha256)
        if not complete and offset not in {0, sum(parts.values())}:
            raise _wrong_offset(sum(parts.values()))
        return Upload(
            self._objects,
            layout.upload_folder(scope, sha256),
            sha256,
            final_path,
            parts if offset else {},
            complete=complete,
            size_bytes=size_bytes,
            part_bytes=self._part_bytes,
            max_bytes=self._max_bytes,
        )

    async def _parts(self, scope: str, sha256: str) -> dict[int, int]:
        """Offset to size of the parts that follow each other from 0 without a gap."""
        found: dict[int, int] = {}
        async for info in self._objects.list(layout.upload_folder(scope, sha256)):
            name = info.path.rpartition("/")[2]
            if name.isdecimal():
                found[int(name)] = info.size
        chain: dict[int, int] = {}
        offset = 0
        while found.get(offset):
            chain[offset] = found[offset]
            offset += found[offset]
        return chain


class Upload:
    """One client's upload. `complete` is True from the start when the bytes are known: nothing needs to be sent."""

    def __init__(
        self,
        objects: ObjectStore,
        folder: str,
        sha256: str,
        final_path: str,
        parts: dict[int, int],
        *,
        complete: bool,
        size_bytes: int | None,
        part_bytes: int,
        max_bytes: int,
    ) -> None:
        self.complete = complete
        self.next_offset = sum(parts.values())
        self._objects = objects
        self._folder = folder
        self._sha256 = sha256
        self._final_path = final_path
        self._parts = dict(parts)
        self._size_bytes = size_bytes
        self._part_bytes = part_bytes
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    async def write(self, chunk: bytes, *, offset: int | None = None) -> None:
        """Takes the next bytes, at `offset` where the client says it.

        Raises InvalidInput (WRONG_OFFSET, SIZE_MISMATCH; UPLOAD_TOO_LARGE removes the parts). Known bytes are dropped.
        """
        if self.complete:
            return
        if offset is not None and offset != self.next_offset:
            raise _wrong_offset(self.next_offset)
        end = self.next_offset + len(chunk)
        if end > self._max_bytes:
            await self._remove_parts()
            raise _too_large(self._max_bytes)
        if self._size_bytes is not None and end > self._size_bytes:
            raise _size_mismatch()
        self._buffer += chunk
        self.next_offset = end
        while len(self._buffer) >= self._part_bytes:
            part_offset = self.next_offset - len(self._buffer)
            await self._objects.put(f"{self._folder}/{part_offset:016d}", bytes(self._buffer[: self._part_bytes]))
            self._parts[part_offset] = self._part_bytes
            del self._buffer[: self._part_bytes]

    async def finish(self) -> int:
        """Makes the object and returns its size in bytes.

        Raises InvalidInput (SIZE_MISMATCH; CHECKSUM_MISMATCH removes the parts) and Unavailable when another upload of
        the same digest removed parts meanwhile: then ask for the status and send the rest again.
        """
        if self.complete:
            return await self._objects.size(self._final_path) or 0
        if self._size_bytes is not None and self.next_offset != self._size_bytes:
            raise _size_mismatch()
        try:
            await self._keep()
        except ObjectMissing:  # a part is gone
            if await self._objects.size(self._final_path) is None:
                raise unavailable() from None
        except InvalidInput:
            await self._remove_parts()
            raise
        if self._parts:
            await self._remove_parts()
        self.complete = True
        return self.next_offset

    async def _keep(self) -> None:
        if self._parts:
            await self._objects.put_stream(self._final_path, self._checked())
            return
        data = bytes(self._buffer)
        if (await asyncio.to_thread(hashlib.sha256, data)).hexdigest() != self._sha256:
            raise _checksum_mismatch()
        await self._objects.create(self._final_path, data)

    async def _checked(self) -> AsyncIterator[bytes]:
        """The parts and the rest, one in memory at a time; CHECKSUM_MISMATCH comes before the end: nothing is kept."""
        digest = hashlib.sha256()
        for offset in sorted(self._parts):
            data = await self._objects.get(f"{self._folder}/{offset:016d}")
            await asyncio.to_thread(digest.update, data)
            yield data
        rest = bytes(self._buffer)
        await asyncio.to_thread(digest.update, rest)
        if digest.hexdigest() != self._sha256:
            raise _checksum_mismatch()
        yield rest

    async def _remove_parts(self) -> None:
        # All that lie there, also those that another upload of the same bytes, now superfluous, left behind.
        async for info in self._objects.list(self._folder):
            await self._objects.delete(info.path)


def _too_large(max_bytes: int) -> InvalidInput:
    return InvalidInput(
        Reason.UPLOAD_TOO_LARGE, f"Uploads are limited to {max_bytes} bytes.", metadata={"max_bytes": str(max_bytes)}
    )


def _wrong_offset(next_offset: int) -> InvalidInput:
    return InvalidInput(
        Reason.WRONG_OFFSET, f"The next byte wanted is {next_offset}.", metadata={"next_offset": str(next_offset)}
    )


def _size_mismatch() -> InvalidInput:
    return InvalidInput(Reason.SIZE_MISMATCH, "The upload has not the size that was announced.")


def _checksum_mismatch() -> InvalidInput:
    return InvalidInput(Reason.CHECKSUM_MISMATCH, "The bytes do not have the SHA-256 that was announced.")
