"""Work for the children, with what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

from inference_svc.protocol import Divide, Failed, Finished, Inferred, Loaded, Part, Work, is_urgent


@dataclass(frozen=True, slots=True)
class Crashed:
    """The child died while it did this work; `cause` for a person: "signal 9", "exit status 1"."""

    cause: str


@dataclass(frozen=True, slots=True)
class TimedOut:
    """The work took longer than it may, and its child was killed. `cpu`: it is CPU time that was used up."""

    limit_s: float
    cpu: bool = False


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """The work was not begun, or nobody wants its end any more."""


Ending: TypeAlias = Finished | Inferred | Loaded | Divide | Part | Failed | Crashed | TimedOut | Withdrawn


class Ticket:
    """Stands for one piece of work given to the children; `ending` is set once. `urgent` work overtakes."""

    __slots__ = ("ending", "started", "urgent", "work")

    def __init__(self, work: Work) -> None:
        self.work = work
        self.urgent = is_urgent(work)
        self.started = False
        self.ending: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

    def end(self, ending: Ending) -> None:
        """Set the ending, unless there is one."""
        if not self.ending.done():
            self.ending.set_result(ending)
