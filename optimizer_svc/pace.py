"""How far a run is, as its caller sees it, and when it has to hurry."""

from __future__ import annotations

from collections.abc import Callable

from optimizer_svc.spec import Progress, Stage, Stopped, TrialRow

# Share of a whole run that each stage usually takes.
SHARES = {
    Stage.INGEST: 0.04,
    Stage.BASELINE: 0.03,
    Stage.PRUNE: 0.50,
    Stage.EXPORT: 0.12,
    Stage.QUANTIZE: 0.14,
    Stage.MEASURE: 0.10,
    Stage.ACCEPT: 0.02,
    Stage.CALIBRATE: 0.01,
    Stage.PACKAGE: 0.04,
}
# Training may use so much of the budget; what comes after it needs the rest. Repairs of what int8 broke end later.
TRAINING_SHARE = 0.55
QUANTIZE_SHARE = 0.75
REPAIR_SHARE = 0.88


class Pace:
    """Tells the caller how far a run is, asks it whether to stop, and keeps the budget.

    `spent_s` are the seconds that an earlier run of the same optimization took; `on_elapsed` hears all of them.
    """

    def __init__(
        self,
        progress: Callable[[Progress], None],
        clock: Callable[[], float],
        should_stop: Callable[[], bool],
        budget_minutes: float,
        *,
        spent_s: float = 0.0,
        on_elapsed: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._progress = progress
        self.clock = clock
        self.should_stop = should_stop
        self._started = clock() - spent_s
        self._on_elapsed = on_elapsed
        self._rows: dict[str, TrialRow] = {}
        self._budget_s = budget_minutes * 60
        self._fraction = 0.0

    @property
    def training_deadline(self) -> float:
        """When (by `clock`) training must have ended."""
        return self.training_time(1.0)

    def training_time(self, share: float) -> float:
        """When (by `clock`) `share` of the time for training is over."""
        return self._started + share * TRAINING_SHARE * self._budget_s

    @property
    def trained(self) -> float:
        """The share of the time for training that is over, 0 to 1."""
        return min(1.0, self.elapsed_s / max(1e-9, TRAINING_SHARE * self._budget_s))

    @property
    def quantize_deadline(self) -> float:
        """When (by `clock`) the last quantization of the search may begin."""
        return self._started + QUANTIZE_SHARE * self._budget_s

    @property
    def quantizes_no_more(self) -> bool:
        """True when the time to quantize is over."""
        return self.clock() > self.quantize_deadline

    @property
    def repair_deadline(self) -> float:
        """When (by `clock`) repairs must have ended."""
        return self._started + REPAIR_SHARE * self._budget_s

    @property
    def elapsed_s(self) -> float:
        """Seconds since the run began."""
        return self.clock() - self._started

    @property
    def remaining_s(self) -> float:
        """What is left of the budget, never below 0."""
        return max(0.0, self._budget_s - self.elapsed_s)

    def say(self, stage: Stage, message: str, within: float = 0.0) -> None:
        """Reports `message` at `within` (0 to 1) of `stage`; raises Stopped when the caller wants no more."""
        self.check()
        before = sum(share for other, share in SHARES.items() if list(Stage).index(other) < list(Stage).index(stage))
        self._fraction = max(self._fraction, min(1.0, before + SHARES[stage] * min(1.0, within)))
        self._report(stage, message)

    def check(self) -> None:
        """Raises Stopped when the caller wants no more."""
        if self.should_stop():
            raise Stopped

    def tell(self, row: TrialRow) -> None:
        """Has the next report show a trial as it is now."""
        self._rows[row.name] = row

    def finish(self, message: str) -> None:
        """Reports the end of the last stage."""
        self._fraction = 1.0
        self._report(Stage.PACKAGE, message)

    def _report(self, stage: Stage, message: str) -> None:
        rows, self._rows = tuple(self._rows.values()), {}
        self._on_elapsed(self.elapsed_s)
        self._progress(Progress(stage, message, self._fraction, self.elapsed_s, self.remaining_s, rows))
