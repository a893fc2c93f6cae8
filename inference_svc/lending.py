"""Objects of a store on S3 for a child, which has neither network nor keys: the worker fetches them and lends a handle.

A child asks over a socket that it was given. With each path it sends one end of a socket pair of its own, on which the
worker answers: a byte, and the handle of a file without a name, open for reading. A child gets what its work names, and
nothing else of the store.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO

from gramserve.errors import Exhausted, GramserveError, InvalidInput, NotFound
from gramserve.store import layout
from gramserve.store.faults import ObjectMissing, full, typed, unavailable
from gramserve.store.objects import ObjectStore
from inference_svc.protocol import RunShadow, RunSlide, Work

PART_BYTES = 4 * 2**20
"""What is fetched by one request: each has its own time, so a slide of gigabytes may take as long as it takes."""

MOST_AT_ONCE = 4
"""Answers that a child may wait for at the same time; what it asks beyond that waits in its socket."""

_PATH_BYTES = 4096
_HANDLE = struct.Struct("i")
_LENT, _MISSING, _FULL, _UNAVAILABLE = b"l", b"m", b"f", b"u"


class BorrowedObjects:
    """The child's side: a `gramserve.images.open.ByteSource` for any number of threads, which asks on `lender`."""

    def __init__(self, lender: socket.socket) -> None:
        self._lender = lender

    def get_sync(self, path: str) -> bytes:
        """The object at `path`; raises ObjectMissing, also for what is not part of the work, Unavailable, Exhausted."""
        with os.fdopen(self.open_sync(path), "rb") as file:
            return file.read()

    def open_sync(self, path: str) -> int:
        """A handle of a file with the bytes of the object at `path`, to be closed by the caller; raises as above."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, typed(writing=True):
            with theirs:
                socket.send_fds(self._lender, [path.encode()], [theirs.fileno()])
            answer, handle = _receive(ours, 1)
        if answer == _LENT and handle is not None:
            return handle
        if answer == _MISSING:
            raise ObjectMissing
        raise full() if answer == _FULL else unavailable()


class Lender:
    """The worker's side for one child; it lends from `start` to `close`."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._may_read: Callable[[str], bool] = lambda path: False
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._answers: set[asyncio.Task[None]] = set()

    def start(self, may_read: Callable[[str], bool]) -> None:
        """Lend to the child that has inherited `theirs`, which is closed here, the paths that it may read then."""
        self._may_read = may_read
        self.theirs.close()
        self._listen()

    def close(self) -> None:
        """Lend no more; whoever waits is told that the store is away."""
        for answer in self._answers:
            answer.cancel()
        if self._ours.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._ours)
        self._ours.close()
        self.theirs.close()

    def _listen(self) -> None:
        if self._ours.fileno() >= 0 and len(self._answers) < MOST_AT_ONCE:
            asyncio.get_running_loop().add_reader(self._ours, self._asked)

    def _asked(self) -> None:
        try:
            path, handle = _receive(self._ours, _PATH_BYTES)
        except BlockingIOError:
            return
        except OSError:
            path, handle = b"", None
        if handle is None:
            if not path:  # the child is gone
                asyncio.get_running_loop().remove_reader(self._ours)
            return  # else this process has no room for another handle: the kernel closed it, which tells the child
        try:
            to = socket.socket(fileno=handle)
        except OSError:  # no socket: no child of ours sends that
            os.close(handle)
            return
        answer = asyncio.create_task(self._answer(path.decode(errors="replace"), to))
        self._answers.add(answer)
        answer.add_done_callback(self._answered)
        if len(self._answers) >= MOST_AT_ONCE:
            asyncio.get_running_loop().remove_reader(self._ours)

    def _answered(self, answer: asyncio.Task[None]) -> None:
        self._answers.discard(answer)
        self._listen()

    async def _answer(self, path: str, to: socket.socket) -> None:
        with to:
            to.setblocking(False)
            said, handle = await self._fetched(path)
            try:
                with suppress(OSError):  # the child is gone, or does not listen: its own fault
                    socket.send_fds(to, [said], [] if handle is None else [handle])
            finally:
                if handle is not None:
                    os.close(handle)

    async def _fetched(self, path: str) -> tuple[bytes, int | None]:
        try:
            if not self._may_read(path):
                raise ObjectMissing
            with typed(writing=True):
                return _LENT, await self._copy(path)
        except (NotFound, InvalidInput):  # which is no name at all
            return _MISSING, None
        except Exhausted:
            return _FULL, None
        except GramserveError:
            return _UNAVAILABLE, None

    async def _copy(self, path: str) -> int:
        """A handle, for reading only, of a file without a name that has the bytes of an object."""
        data = await self._objects.get_range(path, 0, PART_BYTES)
        copy = await asyncio.to_thread(tempfile.TemporaryFile)
        try:
            offset = 0
            while True:
                await asyncio.to_thread(_write, copy, data)
                offset += len(data)
                if len(data) < PART_BYTES:
                    return os.open(f"/proc/self/fd/{copy.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
                data = await self._objects.get_range(path, offset, PART_BYTES)
        finally:
            copy.close()


def names(work: Work, path: str) -> bool:
    """Whether the object at `path` is a file of this work's model version, one of its images, or its earlier call."""
    if path.startswith(f"{work.version}/"):
        return True
    if not isinstance(work, RunSlide | RunShadow):
        return False
    if isinstance(work, RunSlide) and work.reuse and path == layout.reuse_path(work.laboratory, work.reuse):
        return True
    return any(image.sha256 and path == layout.slide_path(work.laboratory, image.sha256) for image in work.images)


def _receive(sock: socket.socket, size: int) -> tuple[bytes, int | None]:
    """A message and the handle that came with it; `socket.recv_fds` of Python 3.11 would let programs inherit that."""
    message, extra, _, _ = sock.recvmsg(size, socket.CMSG_LEN(_HANDLE.size), socket.MSG_CMSG_CLOEXEC)
    handles = [_HANDLE.unpack(data)[0] for level, kind, data in extra if kind == socket.SCM_RIGHTS]
    return message, handles[0] if handles else None


def _write(file: IO[bytes], data: bytes) -> None:
    file.write(data)
    file.flush()
