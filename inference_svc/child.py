"""A child process of the worker: runs one slide after the other, in one thread.

Started by inference_svc.process as `python -m inference_svc.child DESCRIPTOR PARENT [LENDER]`. It reads the store (on
S3 its worker does that for it) and the allowed folders and nothing else; it ends when its worker does, come what may.
"""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable

from gramserve.log import describe
from gramserve.sandbox import die_with
from inference_svc import sandbox
from inference_svc.giving_way import give_way
from inference_svc.protocol import (
    CannotStart,
    ChildSettings,
    Combine,
    Forget,
    FromChild,
    Infer,
    LoadModel,
    Ready,
    RunShadow,
    RunSlide,
    Started,
    Work,
    is_urgent,
)
from inference_svc.wire import Wire

HOOK = "GRAMSERVE_TEST_CHILD_HOOK"
"""For tests only: "module:function" that is called with every slide after it was announced; see docs/worker.md."""


def main(descriptor: int, parent: int, lender: int | None = None) -> int:
    """Serve the worker at the other end of `descriptor` until it is gone; `lender` is where objects come from."""
    die_with(parent)
    # Signals meant for the worker reach its whole group: only the worker decides when a child ends (I14).
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    give_way()
    wire = Wire(socket.socket(fileno=descriptor))
    settings = wire.receive()
    if not isinstance(settings, ChildSettings):
        return 1
    try:
        sandbox.enter(settings)
        # Numpy, OpenCV and the engine come in only here, under the limits.
        perform = importlib.import_module("inference_svc.perform")
        lending = importlib.import_module("inference_svc.lending")
        objects = None if lender is None else lending.BorrowedObjects(socket.socket(fileno=lender))
        child = Child(wire, _hook(os.environ.get(HOOK, "")), sandbox.CpuTime(settings.cpu_s))
        performer = perform.Performer(settings, wire.send, objects, between=child.between, waiting=child.waiting)
    except Exception as error:
        wire.send(CannotStart(describe(error)))
        return 1
    wire.send(Ready())
    child.serve(performer.do, performer.expect)
    return 0


class Child:
    """Does what the worker sends, one piece of work after the other, with urgent work in between.

    Urgent work is done inside other work, where that offers a good place (`between`), and one level deep: nothing
    interrupts urgent work. `hook` is called with every slide that begins, under its limit of CPU time.
    """

    def __init__(self, wire: Wire, hook: Callable[[RunSlide | RunShadow], None], cpu: sandbox.CpuTime) -> None:
        self._wire = wire
        self._hook = hook
        self._cpu = cpu
        self._inbox = Inbox(wire)
        self._perform: Callable[[Work], FromChild] | None = None
        self._may_interrupt = False

    def serve(self, perform: Callable[[Work], FromChild], expect: Callable[[RunSlide], None]) -> None:
        """Work until the worker is gone; `expect` hears which slide is likely to come after one that begins."""
        self._perform = perform
        while (work := self._inbox.next()) is not None:
            self._may_interrupt = not is_urgent(work)
            with self._cpu.allowed():
                self._begin(work)
                if (following := self._inbox.following()) is not None:
                    expect(following)
                self._wire.send(perform(work), hold=True)

    def between(self) -> None:
        """Do the urgent work that waits now; called by other work wherever it may be interrupted."""
        if not self._may_interrupt:
            return
        self._may_interrupt = False
        while self._perform is not None and (work := self._inbox.next_urgent()) is not None:
            with self._cpu.allowed():
                self._begin(work)
                self._wire.send(self._perform(work))
        self._may_interrupt = True

    def waiting(self) -> bool:
        """True when the worker has sent more work."""
        return self._inbox.waiting()

    def _begin(self, work: Work) -> None:
        self._wire.send(Started(work.id))
        if isinstance(work, RunSlide | RunShadow):
            self._hook(work)


class Inbox:
    """Work in the order of its arrival, urgent work first, without what the worker took back meanwhile."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._work: deque[Work] = deque()
        self._urgent: deque[Work] = deque()
        self._open = True

    def next(self) -> Work | None:
        """The next work, waiting for it; None when the worker is gone."""
        while self._open and (not (self._urgent or self._work) or self._wire.waiting()):
            self._receive()
        if not self._open:
            return None
        return (self._urgent or self._work).popleft()

    def next_urgent(self) -> Work | None:
        """The next urgent work that is here already; None when there is none, or the worker is gone."""
        while self._open and self._wire.waiting():
            self._receive()
        return self._urgent.popleft() if self._open and self._urgent else None

    def _receive(self) -> None:
        match self._wire.receive():
            case RunSlide() | Combine() | LoadModel() | RunShadow() | Infer() as work:
                (self._urgent if is_urgent(work) else self._work).append(work)
            case Forget(number):
                self._work = deque(work for work in self._work if work.id != number)
                self._urgent = deque(work for work in self._urgent if work.id != number)
            case _:
                self._open = False

    def waiting(self) -> bool:
        """True when `next` would not have to wait."""
        return bool(self._urgent or self._work) or self._wire.waiting()

    def following(self) -> RunSlide | None:
        """The slide that will come next if nothing else does; does not wait."""
        return next((work for work in self._work if isinstance(work, RunSlide)), None)


def _hook(name: str) -> Callable[[RunSlide | RunShadow], None]:
    if not name:
        return lambda work: None
    module, _, function = name.partition(":")
    found: Callable[[RunSlide | RunShadow], None] = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    try:
        status = main(*map(int, sys.argv[1:]))
    except OSError:  # the worker is gone
        status = 0
    # Nothing here needs the interpreter's long good-bye.
    os._exit(status)
