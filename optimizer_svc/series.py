"""The series of the optimizer that exist from its start, at 0: what appears with its first count is no increase."""

from __future__ import annotations

from gramserve.metrics import Metrics
from optimizer_svc.records import State
from optimizer_svc.spec import TRIAL_STATES


def begin(metrics: Metrics) -> None:
    """Let them exist."""
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        metrics.count("optimizations_finished", 0, state=state.value)
    for trial in TRIAL_STATES:
        metrics.count("optimization_trials", 0, state=trial)
    for cause in ("lost", "misplaced"):
        metrics.count("reconcile_repairs", 0, cause=cause)
    for transition in ("complete", "renew"):
        metrics.count("fenced", 0, transition=transition)
    metrics.set("queue_contact", 0)
