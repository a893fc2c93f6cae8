"""How many slides a child should have, so that it never waits for its worker."""

from __future__ import annotations

import math

SHALLOWEST = 2
"""One that runs and one in its socket."""

DEEPEST = 24
STOCK_S = 0.04
"""What waits in a child should last this long: a few round trips to the queue and back."""

_WEIGHT = 0.2


class Depth:
    """Deeper for quick slides, so that many are leased in one round trip; two where a slide takes longer than 20 ms.

    Slow slides are not hoarded: another worker may be idle, and a STAT slide may come.
    """

    def __init__(self) -> None:
        self.slides = SHALLOWEST
        self._mean_s = STOCK_S

    def seen(self, run_s: float) -> None:
        """A slide took `run_s` seconds in the child; a slow one counts at once, quick ones by and by."""
        weight = 1.0 if run_s > self._mean_s else _WEIGHT
        self._mean_s += weight * (run_s - self._mean_s)
        waiting = math.floor(STOCK_S / max(self._mean_s, STOCK_S / DEEPEST))
        self.slides = min(max(1 + waiting, SHALLOWEST), DEEPEST)

    def lasts(self, slides: int) -> float:
        """Seconds for which so many slides keep the child busy; 0 where it has no more than it must."""
        return slides * self._mean_s if self.slides > SHALLOWEST else 0.0
