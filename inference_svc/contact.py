"""Whether Redis answers this worker, and how long to leave it alone when it does not."""

from __future__ import annotations

from collections.abc import Callable

from gramserve import log
from gramserve.metrics import Metrics

FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0


class Contact:
    """Told of every answer and every failure. `clock` is monotonic seconds; `jitter` gives 0 to 1."""

    def __init__(self, *, metrics: Metrics, clock: Callable[[], float], jitter: Callable[[], float]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._jitter = jitter
        self._log = log.get()
        self._last_s = float("-inf")
        self._failures = 0
        self._lost = False

    def answered(self) -> None:
        """Redis answered a call."""
        self._last_s = self._clock()
        self._failures = 0
        self._metrics.set("queue_contact", 1)
        if self._lost:
            self._lost = False
            self._log.info("the queue answers again")

    def failed(self) -> float:
        """Redis did not answer; returns for how many seconds to leave it alone."""
        self._failures = min(self._failures + 1, 16)
        self._metrics.set("queue_contact", 0)
        if not self._lost:
            self._lost = True
            self._log.warning("the queue cannot be reached; trying on")
        return min(FIRST_PAUSE_S * 2.0 ** (self._failures - 1), LAST_PAUSE_S) * (0.5 + self._jitter())

    def recent(self, within_s: float) -> bool:
        """True when the last call was answered, and that at most `within_s` seconds ago."""
        return not self._lost and self._clock() - self._last_s <= within_s
