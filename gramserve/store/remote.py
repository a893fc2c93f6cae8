"""Objects in S3-compatible storage (or any other that obstore knows).

obstore uploads atomically, answers only when the storage has the object, and knows create-if-absent and
replace-if-match. A request whose answer was lost is sent again: a `create` that reached the storage the first time then
says False, and its caller reads back its own object.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from datetime import timedelta

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import ObjectStore as Backend
from obstore.store import S3Store

from gramserve.errors import GramserveError
from gramserve.store.disk import random_token
from gramserve.store.faults import ObjectMissing, typed, unsafe
from gramserve.store.paths import ObjectInfo, check_after, check_folder, check_path

_STREAM_PART_BYTES = 8 * 1024 * 1024
_STREAM_CONCURRENCY = 2
_GET_CONCURRENCY = 16
_CREATE_CONCURRENCY = 32
_LIST_PAGE = 1000


def open_s3(bucket: str, prefix: str) -> RemoteObjects:
    """The objects below `prefix` of an S3 bucket; credentials, region, endpoint and timeouts from AWS_* variables."""
    store = S3Store(
        bucket, prefix=prefix or None, retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=20)}
    )
    return RemoteObjects(store, f"s3://{bucket}/{prefix}".rstrip("/"))


class RemoteObjects:
    """An ObjectStore over any obstore backend; `base` is the URI of its root, `token` makes names for probes."""

    def __init__(self, backend: Backend, base: str, *, token: Callable[[], str] = random_token) -> None:
        self._backend = backend
        self._base = base
        self._token = token

    # Writing.

    async def put(self, path: str, data: bytes) -> None:
        """Writes or replaces an object."""
        with typed(writing=True):
            await obstore.put_async(self._backend, check_path(path), data)

    async def create(self, path: str, data: bytes) -> bool:
        """Writes an object unless there is one."""
        with typed(writing=True):
            try:
                await obstore.put_async(self._backend, check_path(path), data, mode="create")
            except AlreadyExistsError:
                return False
            return True

    async def create_many(self, objects: Sequence[tuple[str, bytes]]) -> Sequence[bool]:
        """`create` for each (path, data), several at a time."""
        turns = asyncio.Semaphore(_CREATE_CONCURRENCY)

        async def create(path: str, data: bytes) -> bool:
            async with turns:
                return await self.create(path, data)

        return await asyncio.gather(*(create(path, data) for path, data in objects))

    async def name_again(self, names: Sequence[tuple[str, str]]) -> None:
        """Copies each object within the storage; one that has the second name is replaced, which says the same."""
        turns = asyncio.Semaphore(_CREATE_CONCURRENCY)

        async def copy(path: str, second: str) -> None:
            async with turns:
                await obstore.copy_async(self._backend, check_path(path), check_path(second))

        with typed(writing=True):
            await asyncio.gather(*(copy(path, second) for path, second in names))

    async def put_stream(self, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Writes or replaces an object by a multipart upload, which is given up when `chunks` raises."""
        with typed(writing=True):
            await obstore.put_async(
                self._backend,
                check_path(path),
                aiter(chunks),
                use_multipart=True,
                chunk_size=_STREAM_PART_BYTES,
                max_concurrency=_STREAM_CONCURRENCY,
            )

    async def replace(self, path: str, data: bytes, tag: str) -> bool:
        """Replaces an object only while its ETag is still `tag`."""
        with typed():
            try:
                await obstore.put_async(self._backend, check_path(path), data, mode={"e_tag": tag})
            except (PreconditionError, FileNotFoundError):
                return False
            return True

    async def delete(self, path: str) -> None:
        """Removes an object; nothing happens when there is none."""
        with typed(writing=True):
            try:
                await obstore.delete_async(self._backend, check_path(path))
            except FileNotFoundError:
                return

    async def delete_folder(self, prefix: str) -> None:
        """Removes all objects below the folder, a page of the listing at a time."""
        with typed(writing=True):
            async for page in obstore.list(self._backend, check_path(prefix.removesuffix("/")), chunk_size=_LIST_PAGE):
                await obstore.delete_async(self._backend, [meta["path"] for meta in page])

    # Reading.

    async def get(self, path: str) -> bytes:
        """All bytes of an object."""
        with typed():
            found = await obstore.get_async(self._backend, check_path(path))
            return bytes(await found.bytes_async())

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end."""
        check_path(path)
        if length > 0:
            with typed():
                try:
                    return bytes(await obstore.get_range_async(self._backend, path, start=start, length=length))
                except BaseError:
                    if start < (await obstore.head_async(self._backend, path))["size"]:
                        raise
        if await self.size(path) is None:
            raise ObjectMissing
        return b""

    async def get_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """The bytes of each path in order, None for each that is missing."""
        turns = asyncio.Semaphore(_GET_CONCURRENCY)

        async def get(path: str) -> bytes | None:
            async with turns:
                try:
                    return await self.get(path)
                except ObjectMissing:
                    return None

        return await asyncio.gather(*(get(path) for path in paths))

    def get_sync(self, path: str) -> bytes:
        """`get` for code without an event loop."""
        with typed():
            return bytes(obstore.get(self._backend, check_path(path)).bytes())

    def open_sync(self, path: str) -> int:
        """A handle of a copy on this machine that has no name: it is gone when the handle is closed."""
        with typed(), tempfile.TemporaryFile() as copy:
            for chunk in obstore.get(self._backend, check_path(path)).stream(min_chunk_size=_STREAM_PART_BYTES):
                copy.write(chunk)
            copy.flush()
            return os.dup(copy.fileno())

    async def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        """The bytes of an object and its ETag."""
        with typed():
            try:
                found = await obstore.get_async(self._backend, check_path(path))
            except FileNotFoundError:
                return None
            return bytes(await found.bytes_async()), found.meta["e_tag"] or ""

    async def size(self, path: str) -> int | None:
        """Size in bytes; None when it is missing."""
        with typed():
            try:
                return (await obstore.head_async(self._backend, check_path(path)))["size"]
            except FileNotFoundError:
                return None

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below the folder `prefix` behind `after`, by path; one page in memory at a time."""
        with typed():
            pages = obstore.list(
                self._backend, check_folder(prefix) or None, offset=check_after(after) or None, chunk_size=_LIST_PAGE
            )
            async for page in pages:
                for meta in page:
                    yield ObjectInfo(meta["path"], meta["size"], meta["last_modified"].timestamp())

    async def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders directly below `prefix`, sorted."""
        with typed():
            found = await obstore.list_with_delimiter_async(self._backend, check_folder(prefix) or None)
            return sorted(path.rpartition("/")[2] for path in found["common_prefixes"])

    async def files(self, prefix: str) -> Sequence[str]:
        """The names of the objects directly below `prefix`, sorted."""
        with typed():
            found = await obstore.list_with_delimiter_async(self._backend, check_folder(prefix) or None)
            return sorted(info["path"].rpartition("/")[2] for info in found["objects"])

    def uri(self, path: str) -> str:
        """The object as s3://..."""
        return f"{self._base}/{check_path(path)}"

    async def probe(self) -> None:
        """Writes, reads and deletes an object; raises Unsafe, also for a storage without create-if-absent."""
        path = f"probe/{self._token()}"
        try:
            created, again = await self.create(path, b"probe"), await self.create(path, b"again")
            kept = await self.get(path)
            await self.delete(path)
        except GramserveError as error:
            raise unsafe(_why(error.__cause__)) from error
        if not created or again or kept != b"probe":
            raise unsafe("does not keep the first of two objects with one name")


def _why(cause: BaseException | None) -> str:
    """What is wrong with a storage that did not take an object."""
    if isinstance(cause, PermissionDeniedError | UnauthenticatedError):
        return "refuses its keys, or they may not write, read and delete here: look at AWS_ACCESS_KEY_ID and its rights"
    if isinstance(cause, FileNotFoundError):
        return "has no such bucket: make it, or look at AWS_ENDPOINT and AWS_REGION"
    return "cannot be reached or is not writable"
