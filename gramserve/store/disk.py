"""Files that are on disk, under their name and whole, when a write returns.

Data goes to a hidden file in the same folder, is fsynced, gets its name by link or rename, and then the folder is
fsynced. A process that dies in between leaves a hidden file, which nothing reads. Everything here blocks.
"""
# Names are strings: a Path costs more than the system call it stands for.
# ruff: noqa: PTH102, PTH105, PTH106, PTH108, PTH110, PTH112, PTH116, PTH120, PTH123

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import contextmanager, suppress
from functools import partial
from threading import Lock

_KNOWN_FOLDERS = 512
_SYNCS_TOGETHER = 4
# Slides are patients' data: nothing for others on the machine.
_FILE_MODE, _FOLDER_MODE = 0o640, 0o750


def random_token() -> str:
    """16 random hex digits."""
    return secrets.token_hex(8)


class DurableFiles:
    """Writes files below `root` for any number of threads and processes; raises OSError.

    `token` makes the names of unfinished files unique among all processes that share the folder. Fsyncs wait side by
    side in `threads`, which must not be those that call this.
    """

    def __init__(self, root: str, token: Callable[[], str], threads: Executor) -> None:
        self._root = root
        self._token = token
        self._threads = threads
        self._folders: dict[str, None] = {}
        self._remembering = Lock()

    def write(self, name: str, data: bytes) -> None:
        """Writes or replaces the file."""
        with self._unfinished(name, data) as (unfinished, made):
            os.replace(unfinished, name)
        self._settle([name], made)

    def create(self, name: str, data: bytes) -> bool:
        """Writes the file unless there is one; it is on disk in both cases."""
        if os.path.exists(name):
            # The file of somebody else has its name, but that and the folders above are perhaps not yet on disk.
            self._settle([name], self._make_folder(os.path.dirname(name)))
            return False
        created = True
        with self._unfinished(name, data) as (unfinished, made):
            try:
                os.link(unfinished, name)
            except FileExistsError:
                created = False
        self._settle([name], made)
        return created

    def create_many(self, files: Sequence[tuple[str, bytes]]) -> list[bool]:
        """`create` of each (name, data), all made durable together: less than half the cost of one after the other.

        When it raises, some of them may have been written.
        """
        created = [not os.path.exists(name) for name, _ in files]
        unfinished: list[tuple[str, int]] = []
        made: list[str] = []
        try:
            for (name, data), is_new in zip(files, created, strict=True):
                if not is_new:
                    made += self._make_folder(os.path.dirname(name))
                    continue
                hidden, descriptor, new_folders = self._open_unfinished(name)
                unfinished.append((hidden, descriptor))
                made += new_folders
                _write_all(descriptor, data)
                # A hint to begin at once, so that all of them are in one commit of the file system's journal.
                with suppress(OSError):
                    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            _sync_all([descriptor for _, descriptor in unfinished], self._threads)
            new = [position for position, is_new in enumerate(created) if is_new]
            for position, (hidden, _) in zip(new, unfinished, strict=True):
                try:
                    os.link(hidden, files[position][0])
                except FileExistsError:
                    created[position] = False
        finally:
            for hidden, descriptor in unfinished:
                os.close(descriptor)
                discard(hidden)
        self._settle([name for name, _ in files], made)
        return created

    def link_again(self, names: Sequence[tuple[str, str]]) -> None:
        """Gives each file (name, second name) its second name where nothing has it; not made durable."""
        for name, second in names:
            self._settle([], self._make_folder(os.path.dirname(second)))
            with suppress(FileExistsError):
                os.link(name, second)

    def replace(self, name: str, data: bytes, digest: str) -> bool:
        """Replaces the file while the SHA-256 of its content is `digest`; False when it is not."""
        with _locked(name):
            if hashlib.sha256(read(name)).hexdigest() != digest:
                return False
            self.write(name, data)
            return True

    def start(self, name: str) -> str:
        """Makes an empty hidden file for `name`, to `append` to and to `finish`."""
        unfinished, descriptor, made = self._open_unfinished(name)
        os.close(descriptor)
        self._settle([], made)
        return unfinished

    def _open_unfinished(self, name: str) -> tuple[str, int, list[str]]:
        """An empty hidden file beside `name`, its descriptor, and the folders that `_settle` is still to hear of."""
        folder = os.path.dirname(name)
        unfinished = f"{folder}/.tmp-{self._token()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            made = self._make_folder(folder)
            return unfinished, os.open(unfinished, flags, _FILE_MODE), made
        except FileNotFoundError:  # somebody removed a folder that we knew, this one or one above it
            with self._remembering:
                self._folders.clear()
            made = self._make_folder(folder)
            return unfinished, os.open(unfinished, flags, _FILE_MODE), made

    @contextmanager
    def _unfinished(self, name: str, data: bytes) -> Iterator[tuple[str, list[str]]]:
        """A hidden file beside `name` with `data` on disk, gone afterwards, and the folders that are to be settled."""
        unfinished, descriptor, made = self._open_unfinished(name)
        try:
            try:
                _write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            yield unfinished, made
        finally:
            discard(unfinished)

    def _make_folder(self, folder: str) -> list[str]:
        """Makes `folder` and those above it; returns those that `_settle` is to make durable.

        One that is there already is among these when it is met first: its maker may not have got to that.
        """
        if folder in self._folders:
            return []
        above = os.path.dirname(folder)
        inside = len(folder) > len(self._root)  # below the root or above it, never beside
        made = self._make_folder(above) if folder != above and (inside or not os.path.isdir(above)) else []
        with suppress(FileExistsError):
            os.mkdir(folder, _FOLDER_MODE)
        return [*made, folder]

    def _settle(self, names: Iterable[str], made: Sequence[str]) -> None:
        """Returns when these files have their names on disk, and these folders theirs.

        All at once, at the end and side by side: one commit of the file system's journal then is that of all.
        """
        folders = {os.path.dirname(name) for name in names}
        above = {os.path.dirname(folder) for folder in made} - folders
        steps = [*(partial(sync_folder, one) for one in folders), *(partial(_sync_if_ours, one) for one in above)]
        waiting = [self._threads.submit(step) for step in steps[1:]]
        try:
            for step in steps[:1]:
                step()
        finally:
            wait(waiting)
        for done in waiting:
            done.result()
        with self._remembering:
            self._folders.update(dict.fromkeys(made))
            while len(self._folders) > _KNOWN_FOLDERS:
                del self._folders[next(iter(self._folders))]  # the oldest: met again, it is fsynced again


def append(unfinished: str, data: bytes) -> None:
    """Adds to a file of `DurableFiles.start`; opened anew each time, so that no thread outlives its descriptor."""
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    try:
        _write_all(descriptor, data)
    finally:
        os.close(descriptor)


def finish(unfinished: str, name: str) -> None:
    """Gives a file of `DurableFiles.start` its name, replacing what had it."""
    descriptor = os.open(unfinished, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(unfinished, name)
    sync_folder(os.path.dirname(name))


def discard(name: str) -> None:
    """Removes a file if it is there.

    Not fsynced: whatever is deleted (parts of uploads, markers, hidden files) is harmless when it comes back.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(name)


def discard_folder(name: str) -> None:
    """Removes a folder with all that is in it; nothing happens when there is none, and what comes meanwhile stays."""
    for folder, _, files in os.walk(name, topdown=False):
        for file in files:
            discard(f"{folder}/{file}")
        with suppress(FileNotFoundError, NotADirectoryError):
            try:
                os.rmdir(folder)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise


def sync_folder(folder: str) -> None:
    """Returns when the names in `folder` are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_if_ours(folder: str) -> None:
    with suppress(PermissionError):  # the folder above the root need not be ours to read
        sync_folder(folder)


def read(name: str) -> bytes:
    """All bytes of a file."""
    with open(name, "rb", buffering=0) as file:
        return file.readall()


def read_range(name: str, start: int, length: int) -> bytes:
    """`length` bytes from `start`, fewer at the end of the file."""
    with open(name, "rb") as file:
        file.seek(start)
        return file.read(length)


def size(name: str) -> int | None:
    """Size of a regular file in bytes; None for anything else."""
    try:
        status = os.stat(name)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def _locked(name: str) -> Iterator[None]:
    """Keeps other processes and threads from replacing `name`; the kernel ends the lock with its process."""
    folder, _, base = name.rpartition("/")
    descriptor = os.open(f"{folder}/.lock-{base}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_all(descriptors: Sequence[int], threads: Executor) -> None:
    """Returns when all of these files are on disk: disks flush once for fsyncs that wait side by side."""
    count = min(_SYNCS_TOGETHER, max(1, len(descriptors) // 4))
    others = [threads.submit(_sync_each, descriptors[start::count]) for start in range(1, count)]
    try:
        _sync_each(descriptors[::count])
    finally:
        wait(others)  # nobody closes a file under an fsync
    for other in others:
        other.result()


def _sync_each(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.fsync(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
