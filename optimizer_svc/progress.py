"""Progress and trials of a running optimization on their way into the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from gramserve.metrics import Metrics
from optimizer_svc.messages import Going
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.records import ProgressRecord
from optimizer_svc.spec import TRIAL_STATES, TrialRow

MAX_TRIALS = 1000
"""Trials that are kept of one optimization, those that changed last."""
_LEAST_GAP_S = 0.5


class ProgressWriter:
    """Writes at most twice a second, but every new stage; `flush` writes what that held back.

    The start of the first run, the time that earlier runs took and their trials stay; `elapsed_s` is of all runs.
    """

    def __init__(
        self, optimizations: Optimizations, optimization: str, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._optimizations = optimizations
        self._optimization = optimization
        self._metrics = metrics
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last: ProgressRecord | None = None
        self._trials: dict[str, TrialRow] = {}
        self._progress_unwritten = self._trials_unwritten = False
        self._stage_since_s = self._written_s = 0.0
        self.elapsed_s = self._left_s = 0.0

    async def write(self, going: Going) -> None:
        """Takes what the job said; raises what the store raises."""
        async with self._lock:
            now_s = self._clock()
            if self._last is None:
                start_s, new_stage = await self._begin(now_s), True
            else:
                start_s, new_stage = self._last.start_time, going.stage != self._last.stage
                if new_stage:
                    seconds, self._stage_since_s = now_s - self._stage_since_s, now_s
                    self._metrics.observe("optimization_stage_seconds", seconds, stage=self._last.stage)
            self._take(going.trials)
            # Before the search counts again, what earlier runs took stands.
            behind = going.elapsed_s < self.elapsed_s
            left_s = min(going.remaining_s, self._left_s) if behind else going.remaining_s
            self.elapsed_s, self._left_s = max(going.elapsed_s, self.elapsed_s), left_s
            self._last = ProgressRecord(
                going.stage, going.message, going.fraction, start_s, now_s, self.elapsed_s, left_s
            )
            self._metrics.set("optimization_progress", going.fraction)
            self._progress_unwritten = True
            if new_stage or now_s - self._written_s >= _LEAST_GAP_S:
                await self._flush()

    async def flush(self) -> None:
        """Writes what is not written yet; raises what the store raises."""
        async with self._lock:
            await self._flush()

    async def _begin(self, now_s: float) -> float:
        """When the first run started."""
        _, earlier = await self._optimizations.standing(self._optimization)
        self._trials = {row.name: row for row in await self._optimizations.trials(self._optimization)}
        self._stage_since_s = now_s
        if earlier is None:
            return now_s
        self.elapsed_s, self._left_s = earlier.elapsed_s, earlier.remaining_s
        return earlier.start_time

    def _take(self, rows: Iterable[TrialRow]) -> None:
        for row in rows:
            before = self._trials.get(row.name)
            if row == before:  # said again by a run that went on
                continue
            if (before is None or before.state != row.state) and row.state in TRIAL_STATES:
                self._metrics.count("optimization_trials", state=row.state)
            self._trials.pop(row.name, None)  # what changed last stands last
            self._trials[row.name] = row
            self._trials_unwritten = True
        while len(self._trials) > MAX_TRIALS:
            del self._trials[next(iter(self._trials))]

    async def _flush(self) -> None:
        if self._trials_unwritten:
            await self._optimizations.put_trials(self._optimization, self._trials.values())
            self._trials_unwritten = False
        if self._progress_unwritten and self._last is not None:
            await self._optimizations.put_progress(self._optimization, self._last)
            self._progress_unwritten = False
            self._written_s = self._clock()
