"""What a child has begun and not ended: one piece of work, perhaps with an urgent one nested in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Begun:
    number: int
    left_s: float
    since_s: float


class Running:
    """A stack of begun work by wire id. Times are readings of one monotonic clock, seconds.

    Only the work on top runs: it alone uses up its time, and is to blame when its child dies.
    """

    def __init__(self) -> None:
        self._begun: list[_Begun] = []

    @property
    def current(self) -> int | None:
        """The id of the work that runs now; None when there is none."""
        return self._begun[-1].number if self._begun else None

    @property
    def due_s(self) -> float | None:
        """When the work that runs now has used up its time; None when there is none."""
        return self._begun[-1].since_s + self._begun[-1].left_s if self._begun else None

    def begin(self, number: int, limit_s: float, now_s: float) -> None:
        """Work begins that may take `limit_s`; the clock of what it interrupts stands still."""
        if self._begun:
            self._begun[-1].left_s -= now_s - self._begun[-1].since_s
        self._begun.append(_Begun(number, limit_s, now_s))

    def end(self, number: int, now_s: float) -> bool:
        """The work that ran has ended, and what it had interrupted goes on; False when another one runs."""
        if self.current != number:
            return False
        self._begun.pop()
        if self._begun:
            self._begun[-1].since_s = now_s
        return True
