"""The only opener of checkpoints and data: uploaded files by digest, or files under the allowed folders.

Messages never repeat a reference: file names can hold a patient's name.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from gramserve.errors import GramserveError, InvalidInput, NotFound, Reason
from gramserve.images.references import NotLocal, local_path, under
from gramserve.store import layout
from gramserve.store.objects import ObjectMissing, ObjectStore
from optimizer_svc.records import FileRecord

_CHUNK_BYTES = 8 * 1024 * 1024


class Sources:
    """Finds what an optimization reads. `allowed_roots` are absolute; nothing is allowed by default."""

    def __init__(self, objects: ObjectStore, *, allowed_roots: Sequence[Path] = ()) -> None:
        self._objects = objects
        # A root may itself be a link, as volumes often are: both of its names count.
        self._named_roots = {os.path.normpath(root) for root in allowed_roots}
        self._real_roots = {os.path.realpath(root) for root in allowed_roots}

    async def check(self, source: FileRecord, *, folder_allowed: bool) -> None:
        """Raises InvalidInput (REFERENCE_DENIED) or NotFound (REFERENCE_NOT_FOUND)."""
        if not source.sha256:
            await asyncio.to_thread(self._resolve, source.uri, folder_allowed=folder_allowed)
        elif await self._objects.size(layout.checkpoint_path(source.sha256)) is None:
            raise _unknown_digest()

    async def bring(
        self, source: FileRecord, folder: Path, *, folder_allowed: bool, still_wanted: Callable[[], None]
    ) -> Path:
        """Where the file or folder lies on this machine; an uploaded one is copied into `folder` once.

        `still_wanted` is called between chunks and may raise. Raises as `check` does, and InvalidInput
        (CHECKSUM_MISMATCH) when the store gives other bytes than were uploaded.
        """
        if not source.sha256:
            return await asyncio.to_thread(self._resolve, source.uri, folder_allowed=folder_allowed)
        target = folder / source.sha256
        if not target.exists():
            await self._download(source.sha256, target, still_wanted)
        return target

    async def _download(self, sha256: str, target: Path, still_wanted: Callable[[], None]) -> None:
        """Under its name only when it is whole."""
        path = layout.checkpoint_path(sha256)
        size = await self._objects.size(path)
        if size is None:
            raise _unknown_digest()
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        digest = hashlib.sha256()
        with part.open("wb") as sink:
            for start in range(0, size, _CHUNK_BYTES):
                still_wanted()
                try:
                    data = await self._objects.get_range(path, start, _CHUNK_BYTES)
                except ObjectMissing:
                    raise _unknown_digest() from None
                await asyncio.to_thread(_take, data, sink.write, digest.update)
        if digest.hexdigest() != sha256:
            part.unlink()
            raise InvalidInput(Reason.CHECKSUM_MISMATCH, "a stored file does not have its digest; upload it again")
        part.rename(target)

    def _resolve(self, uri: str, *, folder_allowed: bool) -> Path:
        """The real place of a reference. Judged by its name first: outside the roots all is denied alike."""
        try:
            path = local_path(uri)
        except NotLocal as refused:
            raise _denied(str(refused)) from None
        if not under(os.path.normpath(path), self._named_roots | self._real_roots):
            raise _denied("lies outside the folders that this server may read")
        try:
            real = Path(path).resolve(strict=True)
            mode = real.stat().st_mode
        except FileNotFoundError:
            raise NotFound(Reason.REFERENCE_NOT_FOUND, "there is nothing at a reference") from None
        except (OSError, RuntimeError):
            raise _denied("may not be read by this server") from None
        if not under(str(real), self._real_roots):
            raise _denied("leads outside the folders that this server may read")
        if not (stat.S_ISREG(mode) or (folder_allowed and stat.S_ISDIR(mode))):
            raise _denied("is not a regular file" + (" or folder" if folder_allowed else ""))
        if not os.access(real, os.R_OK):
            raise _denied("may not be read by this server")
        return real


def _take(data: bytes, *takers: Callable[[bytes], object]) -> None:
    for take in takers:
        take(data)


def _denied(what: str) -> GramserveError:
    return InvalidInput(Reason.REFERENCE_DENIED, f"a reference {what}")


def _unknown_digest() -> GramserveError:
    return NotFound(Reason.REFERENCE_NOT_FOUND, "no file with this SHA-256 was uploaded; upload it first")
