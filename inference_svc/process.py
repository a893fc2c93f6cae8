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
from inference_svc.depth import Depth
from inference_svc.protocol import (
    CannotStart,
    ChildSettings,
    Divide,
    EngineChosen,
    Failed,
    Finished,
    Forget,
    FromChild,
    Infer,
    Inferred,
    Loaded,
    Models,
    Part,
    Ready,
    RunSlide,
    Started,
)
from inference_svc.running import Running
from inference_svc.work import Crashed, Ticket, TimedOut, Withdrawn

URGENT_DEPTH = 1
"""Slides it has beyond its depth when they are urgent, so that work which fills all children can still be overtaken."""

SEND_BYTES = 2**20
"""What the kernel shall hold for a child: a frame that waits there, tiles included, need not be sent in pieces."""

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
    """A running child. `pending` has its work by wire id, in the order in which it was given; urgent work overtakes."""

    _ids = itertools.count(1)

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.pid = process.pid
        self.ready = False
        self.worked = False
        self.models: frozenset[str] = frozenset()
        self.models_bytes = 0
        self.offered: set[str] = set()
        self.pending: dict[int, Ticket] = {}
        self.depth = Depth()
        self._process = process
        self._reader = reader
        self._writer = writer
        self._running = Running()
        self._unsent: list[bytes] = []
        self._limit: asyncio.TimerHandle | None = None
        self._timed_out: int | None = None

    @classmethod
    async def spawn(cls, settings: ChildSettings, environment: Mapping[str, str]) -> ChildProcess:
        """Start a child; it says Ready when it can work. Raises OSError."""
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
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
        return max(0, self.urgent_room - URGENT_DEPTH)

    @property
    def urgent_room(self) -> int:
        """How many more slides it takes when they are urgent."""
        slides = sum(isinstance(ticket.work, RunSlide) for ticket in self.pending.values())
        return max(0, self.depth.slides + URGENT_DEPTH - slides) if self.ready else 0

    @property
    def urgent(self) -> int:
        """How many pieces of urgent work it has."""
        return sum(ticket.urgent for ticket in self.pending.values())

    @property
    def infers(self) -> int:
        """How many inference requests it has."""
        return sum(isinstance(ticket.work, Infer) for ticket in self.pending.values())

    @property
    def idle(self) -> bool:
        """True when it could begin a slide at once."""
        return self.ready and not self.pending

    def late(self) -> list[Ticket]:
        """The slides that wait here behind other work, urgent ones first."""
        behind = list(self.pending.values())[1:]
        waiting = [ticket for ticket in behind if not ticket.started and isinstance(ticket.work, RunSlide)]
        return sorted(waiting, key=lambda ticket: not ticket.urgent)

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
        loop = asyncio.get_running_loop()
        self._limit = loop.call_later(START_TIMEOUT_S, self.kill)
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
                    self._watch()
                case Started(number):
                    self._running.begin(number, limit_s, loop.time())
                    self._watch()
                    if (ticket := self.pending.get(number)) is not None:
                        ticket.started = True
                case (
                    Finished(number)
                    | Inferred(number)
                    | Loaded(number)
                    | Failed(number)
                    | Divide(number)
                    | Part(number)
                ):
                    if not self._running.end(number, loop.time()):
                        self.kill()
                        return
                    self._watch()
                    self.worked = True
                    self._end(number, message)
                case Models(versions, size):
                    self.models = frozenset(versions)
                    self.models_bytes = size
                case CannotStart() | EngineChosen():
                    pass
                case _:
                    self.kill()
                    return
            yield message

    def _end(self, number: int, message: Finished | Inferred | Loaded | Failed | Divide | Part) -> None:
        if isinstance(message, Finished):
            self.depth.seen(sum(message.stages.values()))
        if (ticket := self.pending.pop(number, None)) is not None:
            ticket.end(message)

    def _watch(self) -> None:
        """Kill the child when the work that runs now has used up its time."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        if self._running.due_s is not None:
            self._limit = asyncio.get_running_loop().call_at(self._running.due_s, self._out_of_time)

    def _out_of_time(self) -> None:
        # What the child said before it dies is still to be read: that may not move the blame to other work.
        self._timed_out = self._running.current
        self.kill()

    def kill(self) -> None:
        """End it now."""
        if self._process.returncode is None:
            self._process.kill()

    async def end(self, limit_s: float) -> str:
        """After `messages` ended, or to end it: close, wait, kill if needed; end what it had. Returns why it died.

        Only what was running is charged with the death; all else is Withdrawn, work that was interrupted too.
        """
        self.ready = False
        if self._limit is not None:
            self._limit.cancel()
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
            if number == self._timed_out:
                ticket.end(TimedOut(limit_s))
            elif number == self._running.current and self._timed_out is None:
                ticket.end(Crashed(cause))
            else:
                ticket.end(Withdrawn())
        self.pending.clear()
        return cause

    def _send(self, message: protocol.ToChild) -> None:
        # What is said in one turn of the loop goes out in one write: each costs as much as a slide's other steps.
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._flush)
        self._unsent.append(protocol.pack(message))

    def _flush(self) -> None:
        # Frames are small and at most a few wait: the transport's buffer needs no flow control. A dead child shows as
        # the end of its messages.
        frames, self._unsent = b"".join(self._unsent), []
        if not self._writer.is_closing():
            self._writer.write(frames)
