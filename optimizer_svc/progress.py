"""Progress of a running optimization on its way into the store."""

from __future__ import annotations

from collections.abc import Callable

from gramserve.metrics import Metrics
from optimizer_svc.messages import Going
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.records import ProgressRecord

_LEAST_GAP_S = 0.5


class ProgressWriter:
    """Writes at most two records a second, but every new stage; the start of the first run stays."""

    def __init__(
        self, optimizations: Optimizations, optimization: str, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._optimizations = optimizations
        self._optimization = optimization
        self._metrics = metrics
        self._clock = clock
        self._last: ProgressRecord | None = None
        self._stage_since_s = 0.0

    async def write(self, going: Going) -> None:
        """Takes what the job said; raises what the store raises."""
        now_s = self._clock()
        if self._last is None:
            _, earlier = await self._optimizations.standing(self._optimization)
            start_s = earlier.start_time if earlier is not None else now_s
            self._stage_since_s = now_s
        else:
            start_s = self._last.start_time
            if going.stage != self._last.stage:
                self._metrics.observe("optimization_stage_seconds", now_s - self._stage_since_s, stage=self._last.stage)
                self._stage_since_s = now_s
            elif now_s - self._last.time < _LEAST_GAP_S:
                return
        self._last = ProgressRecord(going.stage, going.message, going.fraction, start_s, now_s)
        await self._optimizations.put_progress(self._optimization, self._last)
