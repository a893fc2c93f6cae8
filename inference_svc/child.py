"""A child process of the worker: runs one slide after the other, in one thread.

Started by inference_svc.process as `python -m inference_svc.child DESCRIPTOR PARENT`. It reaches the store and the
allowed folders and nothing else; it ends when its worker does, whatever happens.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import resource
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable

from gramserve.log import describe
from inference_svc.protocol import (
    CannotStart,
    ChildSettings,
    Forget,
    FromChild,
    LoadModel,
    Ready,
    RunSlide,
    Started,
    Wire,
    Work,
)

HOOK = "GRAMSERVE_TEST_CHILD_HOOK"
"""For tests only: "module:function" that is called with every RunSlide after it was announced; see docs/worker.md."""

_PR_SET_PDEATHSIG = 1


def main(descriptor: int, parent: int) -> int:
    """Serve the worker at the other end of `descriptor` until it is gone."""
    _die_with(parent)
    # Signals meant for the worker reach its whole group: only the worker decides when a child ends (I14).
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    wire = Wire(socket.socket(fileno=descriptor))
    settings = wire.receive()
    if not isinstance(settings, ChildSettings):
        return 1
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (settings.memory_bytes, settings.memory_bytes))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core would be full of pixels
        # Numpy, OpenCV and the engine come in only here, under the limits.
        perform = importlib.import_module("inference_svc.perform")
        runner: Callable[[Work], FromChild] = perform.Performer(settings, wire.send).do
        hook = _hook(os.environ.get(HOOK, ""))
    except Exception as error:
        wire.send(CannotStart(describe(error)))
        return 1
    wire.send(Ready())
    inbox = Inbox(wire)
    while (work := inbox.next()) is not None:
        wire.send(Started(work.id))
        if isinstance(work, RunSlide):
            hook(work)
        wire.send(runner(work))
    return 0


class Inbox:
    """Work in the order of its arrival, without what the worker took back meanwhile."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._work: deque[Work] = deque()
        self._open = True

    def next(self) -> Work | None:
        """The next work, waiting for it; None when the worker is gone."""
        while self._open and (not self._work or self._wire.waiting()):
            match self._wire.receive():
                case RunSlide() | LoadModel() as work:
                    self._work.append(work)
                case Forget(number):
                    self._work = deque(work for work in self._work if work.id != number)
                case _:
                    self._open = False
        return self._work.popleft() if self._open else None


def _die_with(parent: int) -> None:
    """Be killed when the worker dies, even in the middle of a slide: its work would be for nobody."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def _hook(name: str) -> Callable[[RunSlide], None]:
    if not name:
        return lambda work: None
    module, _, function = name.partition(":")
    found: Callable[[RunSlide], None] = getattr(importlib.import_module(module), function)
    return found


if __name__ == "__main__":
    try:
        status = main(int(sys.argv[1]), int(sys.argv[2]))
    except OSError:  # the worker is gone
        status = 0
    # Nothing here needs the interpreter's long good-bye.
    os._exit(status)
