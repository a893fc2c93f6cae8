"""Objects by name: the seam between gramserve and the folder or bucket that keeps its data."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Protocol
from urllib.parse import unquote, urlsplit

from gramserve.errors import InvalidInput, Reason
from gramserve.store.faults import ObjectMissing
from gramserve.store.local import LocalObjects
from gramserve.store.paths import ObjectInfo, check_path, is_remote
from gramserve.store.remote import RemoteObjects, open_s3

__all__ = ["LocalObjects", "ObjectInfo", "ObjectMissing", "ObjectStore", "RemoteObjects", "check_path", "open_store"]


class ObjectStore(Protocol):
    """Immutable and replaceable objects under names like "batches/lab/b1/batch.json".

    Every write is durable when it returns, and all or nothing: a reader sees the whole object or none. All methods
    raise InvalidInput for a path that is none, Exhausted (STORE_FULL) and Unavailable (STORE_UNAVAILABLE).
    """

    async def put(self, path: str, data: bytes) -> None:
        """Writes or replaces an object."""

    async def create(self, path: str, data: bytes) -> bool:
        """Writes an object unless there is one; False, with the existing one durable, when there is."""

    async def create_many(self, objects: Sequence[tuple[str, bytes]]) -> Sequence[bool]:
        """`create` for each (path, data), all of them durable when it returns: much cheaper together. No path twice.

        When it raises, some of them may have been written; the same call again then says False for those.
        """

    async def name_again(self, names: Sequence[tuple[str, str]]) -> None:
        """Gives each object (path, second path) its second name too, unless that is taken. Not durable: a hint."""

    async def put_stream(self, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Writes or replaces an object in bounded memory; what `chunks` raises is raised, and nothing is written."""

    async def get(self, path: str) -> bytes:
        """All bytes of an object; raises ObjectMissing."""

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end of the object; raises ObjectMissing."""

    async def get_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """The bytes of each path in order, None for each that is missing: much cheaper than one `get` each."""

    def get_sync(self, path: str) -> bytes:
        """`get` for code without an event loop."""

    def open_sync(self, path: str) -> int:
        """A handle of a file with the bytes of an object, for the caller to close; raises ObjectMissing."""

    async def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        """The bytes of an object and a tag that changes with them; None when it is missing."""

    async def replace(self, path: str, data: bytes, tag: str) -> bool:
        """Replaces an object only while its tag is still `tag`; False when somebody else was faster."""

    async def size(self, path: str) -> int | None:
        """Size in bytes; None when it is missing."""

    def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below the folder `prefix` ("" is all) whose path sorts behind `after`, by path, streaming.

        Some S3-compatible storages sort folders otherwise: rely on the order, and use `after`, within one folder only.
        """

    async def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders directly below `prefix`, sorted. A folder may be empty after deletes."""

    async def files(self, prefix: str) -> Sequence[str]:
        """The names of the objects directly below `prefix`, sorted; nothing is looked at in the folders beside them."""

    async def delete(self, path: str) -> None:
        """Removes an object; nothing happens when there is none."""

    async def delete_folder(self, prefix: str) -> None:
        """Removes all objects below the folder `prefix`; may be broken off anywhere and repeated."""

    def uri(self, path: str) -> str:
        """Where the object lies, for other programs: file:///... or s3://..."""

    async def probe(self) -> None:
        """Writes, reads and deletes an object; raises Unsafe (UNSAFE_STORE) when that cannot be relied on (I15)."""


def open_store(url: str) -> ObjectStore:
    """The store at `url`: a folder's path, "file:///folder" or "s3://bucket/prefix"; touches nothing yet.

    S3 takes credentials, region and endpoint from the usual AWS_* environment variables.
    Raises InvalidInput for any other scheme.
    """
    parts = urlsplit(url)
    if is_remote(url) and parts.netloc:
        return open_s3(parts.netloc, parts.path.strip("/"))
    if parts.scheme == "file" and parts.netloc in {"", "localhost"} and parts.path:
        return LocalObjects(unquote(parts.path))
    if not parts.scheme and url:
        return LocalObjects(url)
    raise InvalidInput(
        Reason.INVALID_SETTINGS, "A store is a folder, file:///folder or s3://bucket/prefix.", violations=[("url", url)]
    )
