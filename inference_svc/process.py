"""One child process: starting it, giving it work, hearing what became of it, and its end."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

from gramserve.errors import GramserveError
from inference_svc import protocol
from inference_svc.protocol import (
    CannotStart,
    ChildSettings,
    Failed,
    Finished,
    Forget,
    FromChild,
    Loaded,
    Models,
    Ready,
    RunSlide,
    Started,
)
from inference_svc.work import Crashed, Ticket, TimedOut, Withdrawn

DEPTH = 2
"""Slides a child has at most: one that runs and one in its socket, so that it never waits for the worker."""

START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 2.0

# Children run one slide each on one core: threads of libraries would only take cores from each other.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
# A child that decodes hostile files needs no way to the queue.
_NOT_FOR_CHILDREN = ("GRAMSERVE_REDIS_URL",)


def child_environment(environ: Mapping[str, str], max_image_pixels: int) -> dict[str, str]:
    """The environment of a child: ours without the queue, with one thread for each library."""
    kept = {name: value for name, value in environ.items() if name not in _NOT_FOR_CHILDREN}
    # OpenCV reads its own limit when it is imported, and it must not be lower than ours.
    return kept | dict.fromkeys(_ONE_THREAD, "1") | {"OPENCV_IO_MAX_IMAGE_PIXELS": str(max_image_pixels)}


class ChildProcess:
    """A running child. `pending` has its work by wire id, in the order in which it will do it."""

    _ids = itertools.count(1)

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = process.pid
        self.ready = False
        self.worked = False
        self.models: frozenset[str] = frozenset()
        self.offered: set[str] = set()
        self.pending: dict[int, Ticket] = {}
        self._process = process
        self._reader = reader
        self._writer = writer
        self._running = 0
        self._limit: asyncio.TimerHandle | None = None
        self._timed_out = False

    @classmethod
    async def spawn(cls, settings: ChildSettings, environment: Mapping[str, str]) -> ChildProcess:
        """Start a child; it says Ready when it can work. Raises OSError."""
        ours, theirs = socket.socketpair()
        process: asyncio.subprocess.Process | None = None
        try:
            with theirs:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "inference_svc.child", str(theirs.fileno()), str(os.getpid())),
                    pass_fds=[theirs.fileno()],
                    # Whatever a library prints there could be part of an image: it belongs nowhere.
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=environment,
                )
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            if process is not None:
                process.kill()
            raise
        child = cls(process, reader, writer)
        child._send(settings)
        return child

    @property
    def room(self) -> int:
        """How many more slides it takes."""
        slides = sum(isinstance(ticket.work, RunSlide) for ticket in self.pending.values())
        return DEPTH - slides if self.ready else 0

    @property
    def idle(self) -> bool:
        """True when it could begin a slide at once."""
        return self.ready and not self.pending

    def late(self) -> list[Ticket]:
        """The slides that wait here behind other work."""
        behind = list(self.pending.values())[1:]
        return [ticket for ticket in behind if not ticket.started and isinstance(ticket.work, RunSlide)]

    def give(self, ticket: Ticket) -> None:
        """Hand work over; how it ends is told through the ticket."""
        number = next(self._ids)
        self.pending[number] = ticket
        self._send(replace(ticket.work, id=number))

    def take_back(self, ticket: Ticket) -> bool:
        """Withdraw work that was not begun; False when it is not here or was begun."""
        for number, pending in self.pending.items():
            if pending is ticket and not ticket.started:
                del self.pending[number]
                self._send(Forget(number))
                return True
        return False

    async def messages(self, limit_s: float) -> AsyncIterator[FromChild]:
        """What the child says until it is gone, with tickets already ended; `limit_s` is for one piece of work."""
        self._limit = asyncio.get_running_loop().call_later(START_TIMEOUT_S, self.kill)
        while True:
            try:
                message = await protocol.read(self._reader)
            except (GramserveError, protocol.BrokenProtocol):
                self.kill()
                return
            match message:
                case None:
                    return
                case Ready():
                    self.ready = True
                    self._watch(None)
                case Started(number):
                    self._begin(number, limit_s)
                case Finished(number) | Loaded(number) | Failed(number):
                    self._watch(None)
                    self._running = 0
                    self.worked = True
                    if (ticket := self.pending.pop(number, None)) is not None:
                        ticket.end(message)
                case Models(versions):
                    self.models = frozenset(versions)
                case CannotStart():
                    pass
                case _:
                    self.kill()
                    return
            yield message

    def _begin(self, number: int, limit_s: float) -> None:
        self._running = number
        self._watch(limit_s)
        if (ticket := self.pending.get(number)) is not None:
            ticket.started = True

    def _watch(self, limit_s: float | None) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if limit_s is not None:
            self._limit = asyncio.get_running_loop().call_later(limit_s, self._out_of_time)

    def _out_of_time(self) -> None:
        self._timed_out = True
        self.kill()

    def kill(self) -> None:
        """End it now."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self, limit_s: float) -> str:
        """After `messages` ended, or to end it: close, wait, kill if needed; end what it had. Returns why it died.

        Only what was running is charged with the death; all else is Withdrawn.
        """
        self.ready = False
        self._watch(None)
        self._writer.close()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
        status = self._process.returncode or 0
        cause = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        for number, ticket in self.pending.items():
            if number != self._running:
                ticket.end(Withdrawn())
            else:
                ticket.end(TimedOut(limit_s) if self._timed_out else Crashed(cause))
        self.pending.clear()
        return cause

    def _send(self, message: protocol.ToChild) -> None:
        # Frames are small and at most a few wait: the transport's buffer needs no flow control. A dead child shows as
        # the end of its messages.
        if not self._writer.is_closing():
            self._writer.write(protocol.pack(message))
