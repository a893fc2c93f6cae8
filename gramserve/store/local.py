"""Objects in a local folder.

obstore's LocalStore is atomic but never fsyncs, lists in no order, and its `get` of 1 KiB costs 270 us of CPU against
10 us for open and read (measured with obstore 0.12): so a folder is served with system calls alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import quote_from_bytes

from gramserve.errors import GramserveError
from gramserve.store import disk
from gramserve.store.faults import ObjectMissing, typed, unsafe
from gramserve.store.paths import ObjectInfo, check_after, check_folder, check_path

P = ParamSpec("P")
T = TypeVar("T")

# Fsyncs that wait together share one commit of the file system's journal.
_THREADS = 8
_SYNCING_THREADS = 4


class LocalObjects:
    """An ObjectStore in the folder `root`, which the first write makes.

    Safe for any number of threads and processes of one machine. `token` makes names that are unique among all of them.
    """

    def __init__(self, root: str | Path, *, token: Callable[[], str] = disk.random_token) -> None:
        self._root = str(Path(root).expanduser().absolute())
        self._token = token
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._files = disk.DurableFiles(
            self._root, token, ThreadPoolExecutor(_SYNCING_THREADS, thread_name_prefix="sync")
        )

    @property
    def root(self) -> str:
        """The folder, absolute."""
        return self._root

    async def put(self, path: str, data: bytes) -> None:
        """Writes or replaces an object."""
        await self._write(self._files.write, self._name(path), data)

    async def create(self, path: str, data: bytes) -> bool:
        """Writes an object unless there is one."""
        return await self._write(self._files.create, self._name(path), data)

    async def create_many(self, objects: Sequence[tuple[str, bytes]]) -> Sequence[bool]:
        """`create` for each (path, data), durable together."""
        files = [(self._name(path), data) for path, data in objects]
        return await self._write(self._files.create_many, files)

    async def name_again(self, names: Sequence[tuple[str, str]]) -> None:
        """Gives each object its second name by a hard link."""
        pairs = [(self._name(path), self._name(second)) for path, second in names]
        await self._write(self._files.link_again, pairs)

    async def put_stream(self, path: str, chunks: AsyncIterable[bytes]) -> None:
        """Writes or replaces an object from `chunks`, one in memory at a time."""
        name = self._name(path)
        unfinished = await self._write(self._files.start, name)
        try:
            async for chunk in chunks:
                await self._write(disk.append, unfinished, chunk)
            await self._write(disk.finish, unfinished, name)
        finally:
            disk.discard(unfinished)

    async def replace(self, path: str, data: bytes, tag: str) -> bool:
        """Replaces an object only while its tag is still `tag`."""
        try:
            return await self._read(self._files.replace, self._name(path), data, tag)
        except ObjectMissing:
            return False

    async def delete(self, path: str) -> None:
        """Removes an object; nothing happens when there is none."""
        await self._write(disk.discard, self._name(path))

    async def delete_folder(self, prefix: str) -> None:
        """Removes all objects below the folder, and the folder."""
        await self._write(disk.discard_folder, self._name(prefix.removesuffix("/")))

    async def get(self, path: str) -> bytes:
        """All bytes of an object."""
        return await self._read(disk.read, self._name(path))

    async def get_range(self, path: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`, fewer at the end."""
        return await self._read(disk.read_range, self._name(path), start, length)

    async def get_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        """The bytes of each path in order, None for each that is missing."""
        return await self._read(_read_many, [self._name(path) for path in paths])

    def get_sync(self, path: str) -> bytes:
        """`get` for code without an event loop."""
        with typed():
            return disk.read(self._name(path))

    def open_sync(self, path: str) -> int:
        """A handle of the object's own file."""
        name = self._name(path)
        with typed():
            handle = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                os.close(handle)
                raise ObjectMissing
            return handle

    async def get_tagged(self, path: str) -> tuple[bytes, str] | None:
        """The bytes of an object and their SHA-256."""
        try:
            data = await self.get(path)
        except ObjectMissing:
            return None
        return data, hashlib.sha256(data).hexdigest()

    async def size(self, path: str) -> int | None:
        """Size in bytes; None when it is missing."""
        return await self._read(disk.size, self._name(path))

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        """The objects below the folder `prefix` behind `after`, by path; the folders on the way are in memory."""
        open_folders = [await self._read(_children, self._root, check_folder(prefix), check_after(after))]
        while open_folders:
            child = next(open_folders[-1], None)
            if child is None:
                open_folders.pop()
            elif isinstance(child, ObjectInfo):
                yield child
            else:
                open_folders.append(await self._read(_children, self._root, child, after))

    async def folders(self, prefix: str) -> Sequence[str]:
        """The names of the folders directly below `prefix`, sorted."""
        children = await self._read(_children, self._root, check_folder(prefix), "")
        return sorted(child.rpartition("/")[2] for child in children if isinstance(child, str))

    async def files(self, prefix: str) -> Sequence[str]:
        """The names of the objects directly below `prefix`, sorted."""
        children = await self._read(_children, self._root, check_folder(prefix), "")
        return sorted(child.path.rpartition("/")[2] for child in children if isinstance(child, ObjectInfo))

    def uri(self, path: str) -> str:
        """The object as file:///..."""
        # Not by pathlib: it interns every part of every path, and the table of interned strings doubles in the end.
        return f"file://{quote_from_bytes(os.fsencode(self._name(path)))}"

    async def probe(self) -> None:
        """Writes, reads and deletes an object; raises Unsafe."""
        path = f"probe/{self._token()}"
        try:
            created, again = await self.create(path, b"probe"), await self.create(path, b"again")
            kept = await self.get(path)
            await self.delete(path)
        except GramserveError as error:
            cause = error.__cause__
            why = os.strerror(cause.errno) if isinstance(cause, OSError) and cause.errno else "an error of the system"
            raise unsafe(f"is not writable: {why}") from error
        if not created or again or kept != b"probe":
            raise unsafe("does not keep the first of two objects with one name")

    def _name(self, path: str) -> str:
        return f"{self._root}/{check_path(path)}"

    async def _read(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with typed():
            return await self._in_thread(function, *args, **kwargs)

    async def _write(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        with typed(writing=True):
            return await self._in_thread(function, *args, **kwargs)

    async def _in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # In threads even where the page cache would answer at once: a slow disk must not stop the renewal of leases.
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(*args, **kwargs))


def _read_many(names: Sequence[str]) -> Sequence[bytes | None]:
    found: list[bytes | None] = []
    for name in names:
        try:
            found.append(disk.read(name))
        except (FileNotFoundError, NotADirectoryError):
            found.append(None)
    return found


def _children(root: str, folder: str, after: str) -> Iterator[ObjectInfo | str]:
    """Objects and folders directly below `folder` in the order of all paths, without those that end before `after`.

    A folder sorts as if its name ended with "/": "a-b" < "a/x" < "a0". Hidden files are unfinished ones and locks.
    """
    prefix = f"{folder}/" if folder else ""
    children: list[tuple[str, ObjectInfo | str]] = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(f"{root}/{folder}") as entries:
        for entry in entries:
            path = prefix + entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if path + "/" > after or after.startswith(path + "/"):
                    children.append((path + "/", path))
            elif path > after:
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = entry.stat()
                    children.append((path, ObjectInfo(path, status.st_size, status.st_mtime)))
    children.sort(key=lambda child: child[0])
    return iter([child for _, child in children])
