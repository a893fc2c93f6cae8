"""The series of the optimizer that exist from its start, at 0: what appears with its first count is no increase."""

from __future__ import annotations

from gramserve.metrics import Metrics
from optimizer_svc.records import State
from optimizer_svc.spec import TRIAL_STATES


def begin(metrics: Metrics) -> None:
    """Let them exist."""
    for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED):
        metrics.expect("optimizations_finished", state=state.value)
    for trial in TRIAL_STATES:
        metrics.expect("optimization_trials", state=trial)
    for cause in ("lost", "misplaced"):
        metrics.expect("reconcile_repairs", cause=cause)
    for transition in ("complete", "renew"):
        metrics.expect("fenced", transition=transition)
    metrics.set("queue_contact", 0)
