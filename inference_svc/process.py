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

from gramserve.sandbox import without_secrets
from gramserve.store.objects import ObjectStore
from inference_svc import protocol
from inference_svc.depth import Depth
from inference_svc.frames import Frames
from inference_svc.lending import Lender, names
from inference_svc.plausible import is_plausible
from inference_svc.protocol import (
    CannotStart,
    ChildSettings,
    Divide,
    EngineChosen,
    Failed,
    Finished,
    Forget,
    Infer,
    Inferred,
    Loaded,
    Message,
    Models,
    Part,
    Ready,
    RunSlide,
    Started,
    VersionLoaded,
)
from inference_svc.running import Running
from inference_svc.work import Crashed, Ticket, TimedOut, Withdrawn

URGENT_DEPTH = 1
"""Slides it has beyond its depth when they are urgent, so that work which fills all children can still be overtaken."""

SEND_BYTES = 2**20
"""What the kernel shall hold for a child: a frame that waits there, tiles included, need not be sent in pieces."""

REST_S = 0.008
"""How long a child with plenty of quick slides is not listened to."""

START_TIMEOUT_S = 120.0
END_TIMEOUT_S = 2.0

# Children run one slide each on one core: threads of libraries would only take cores from each other.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")


def child_environment(environ: Mapping[str, str], max_image_pixels: int) -> dict[str, str]:
    """The environment of a child: ours without queue, signing key and keys of S3, with one thread for each library."""
    # OpenCV reads its own limit when it is imported, and it must not be lower than ours.
    return (
        without_secrets(environ)
        | dict.fromkeys(_ONE_THREAD, "1")
        | {"OPENCV_IO_MAX_IMAGE_PIXELS": str(max_image_pixels)}
    )


class ChildProcess:
    """A running child. `pending` has its work by wire id, in the order in which it was given; urgent work overtakes.

    `slides`, `infers` and `urgent` count the slides, the inference requests and the urgent work in it. `cpu_s` is the
    CPU time that one piece of work may use in it, seconds.
    """

    _ids = itertools.count(1)

    def __init__(self, process: asyncio.subprocess.Process, frames: Frames, cpu_s: float) -> None:
        self.pid = process.pid
        self.ready = False
        self.worked = False
        self.models: frozenset[str] = frozenset()
        self.models_bytes = 0
        self.offered: set[str] = set()
        self.pending: dict[int, Ticket] = {}
        self.depth = Depth()
        self.slides = 0
        self.urgent = 0
        self.infers = 0
        self._process = process
        self._frames = frames
        self._running = Running()
        self._unsent: list[bytes] = []
        self._limit: asyncio.TimerHandle | None = None
        self._timed_out: int | None = None
        self._cpu_s = cpu_s
        self._lender: Lender | None = None
        self._given: set[str] = set()

    @classmethod
    async def spawn(
        cls, settings: ChildSettings, environment: Mapping[str, str], lent: ObjectStore | None = None
    ) -> ChildProcess:
        """Start a child; it says Ready when it can work. Raises OSError.

        Where it cannot reach the store by itself, what its work names is `lent` to it from there.
        """
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        lender = Lender(lent) if lent is not None else None
        process: asyncio.subprocess.Process | None = None
        try:
            with theirs:
                inherited = [theirs.fileno(), *([lender.theirs.fileno()] if lender is not None else [])]
                words = [str(number) for number in (inherited[0], os.getpid(), *inherited[1:])]
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "inference_svc.child", *words),
                    pass_fds=inherited,
                    # Whatever a library prints there could be part of an image: it belongs nowhere.
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    env=environment,
                )
            _, frames = await asyncio.get_running_loop().create_connection(Frames, sock=ours)
        except BaseException:
            ours.close()
            if lender is not None:
                lender.close()
            if process is not None:
                process.kill()
            raise
        child = cls(process, frames, settings.cpu_s)
        if lender is not None:
            child._lender = lender
            lender.start(child._may_read)
        child._send(settings)
        return child

    @property
    def room(self) -> int:
        """How many more slides it takes."""
        return max(0, self.urgent_room - URGENT_DEPTH)

    @property
    def urgent_room(self) -> int:
        """How many more slides it takes when they are urgent."""
        return max(0, self.depth.slides + URGENT_DEPTH - self.slides) if self.ready else 0

    @property
    def idle(self) -> bool:
        """True when it could begin a slide at once."""
        return self.ready and not self.pending

    def _may_read(self, path: str) -> bool:
        return any(names(ticket.work, path) for ticket in self.pending.values())

    def late(self) -> list[Ticket]:
        """The slides that wait here behind other work, urgent ones first."""
        behind = list(self.pending.values())[1:]
        waiting = [ticket for ticket in behind if not ticket.started and isinstance(ticket.work, RunSlide)]
        return sorted(waiting, key=lambda ticket: not ticket.urgent)

    def give(self, ticket: Ticket) -> None:
        """Hand work over; how it ends is told through the ticket."""
        number = next(self._ids)
        self.pending[number] = ticket
        self._given.add(ticket.work.version)
        self._count(ticket, 1)
        if ticket.urgent:
            self._frames.resume()
        self._send(replace(ticket.work, id=number))

    def take_back(self, ticket: Ticket) -> bool:
        """Withdraw work that was not begun; False when it is not here or was begun."""
        for number, pending in self.pending.items():
            if pending is ticket and not ticket.started:
                self._drop(number)
                self._send(Forget(number))
                return True
        return False

    async def messages(self, limit_s: float) -> AsyncIterator[list[Message]]:
        """What the child says until it is gone, some at a time, with tickets already ended.

        `limit_s` is for one piece of work.
        """
        loop = asyncio.get_running_loop()
        self._limit = loop.call_later(START_TIMEOUT_S, self.kill)
        while (messages := await self._frames.some()) is not None:
            if not all(self._hear(message, limit_s, loop.time()) for message in messages):
                self.kill()
                return
            self._watch()
            self._rest()
            yield messages
        if self._frames.broken:
            self.kill()

    def _hear(self, message: Message, limit_s: float, now_s: float) -> bool:
        """Take a message in; False for one that no child sends then."""
        if not is_plausible(message, self._given):
            return False
        match message:
            case Ready():
                self.ready = True
                self._unwatch()
            case Started(number):
                self._running.begin(number, limit_s, now_s)
                if (ticket := self.pending.get(number)) is not None:
                    ticket.started = True
            case Finished(number) | Inferred(number) | Loaded(number) | Failed(number) | Divide(number) | Part(number):
                if not self._running.end(number, now_s):
                    return False
                self.worked = True
                self._end(number, message)
            case Models(versions, size):
                self.models = frozenset(versions)
                self.models_bytes = size
            case CannotStart() | EngineChosen() | VersionLoaded():
                pass
            case _:
                return False
        return True

    def _end(self, number: int, message: Finished | Inferred | Loaded | Failed | Divide | Part) -> None:
        if isinstance(message, Finished):
            self.depth.seen(sum(message.stages.values()))
        if (ticket := self._drop(number)) is not None:
            ticket.end(message)

    def _drop(self, number: int) -> Ticket | None:
        if (ticket := self.pending.pop(number, None)) is not None:
            self._count(ticket, -1)
        return ticket

    def _count(self, ticket: Ticket, change: int) -> None:
        self.slides += change * isinstance(ticket.work, RunSlide)
        self.infers += change * isinstance(ticket.work, Infer)
        self.urgent += change * ticket.urgent

    def _rest(self) -> None:
        """Leave the child alone for a moment while it has plenty of quick slides: several ends then come together."""
        if not self.urgent and self.depth.lasts(self.slides - 1) > 2 * REST_S:
            self._frames.pause(REST_S)

    def _watch(self) -> None:
        """Kill the child when the work that runs now has used up its time."""
        due_s = self._running.due_s
        if due_s is None:
            self._unwatch()
        elif self._limit is None or self._limit.when() > due_s:
            # One that comes too early is set again then: a new one for each slide would cost more.
            self._unwatch()
            self._limit = asyncio.get_running_loop().call_at(due_s, self._out_of_time)

    def _unwatch(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _out_of_time(self) -> None:
        self._limit = None
        if self._running.due_s is not None and self._running.due_s > asyncio.get_running_loop().time():
            self._watch()
            return
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
        self._unwatch()
        self._frames.close()
        if self._lender is not None:
            self._lender.close()
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
            elif number == self._running.current and -status == signal.SIGXCPU:
                ticket.end(TimedOut(self._cpu_s, cpu=True))
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
        self._frames.write(frames)
