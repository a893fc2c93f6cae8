"""The series of the gateway that exist from its start, at 0: what appears with its first count is no increase."""

from __future__ import annotations

from dataclasses import fields

from gramserve.errors import Reason
from gramserve.metrics import Metrics
from gramserve.store.records import BatchState, Priority, SlideState
from gramserve.store.retention import RetentionDays

_ENDS = (
    (SlideState.FAILED, Reason.WORKER_CRASHED),
    (SlideState.CANCELLED, Reason.CANCELLED),
    (SlideState.CANCELLED, Reason.TOO_MANY_FAILURES),
    (SlideState.EXPIRED, Reason.EXPIRED),
)


def begin(metrics: Metrics) -> None:
    """Let them exist."""
    for priority in Priority:
        metrics.expect("slides_accepted", priority=priority.value)
        metrics.expect("slides_resubmitted", priority=priority.value)
    for state, reason in _ENDS:
        metrics.expect("slides_ended", state=state.value, reason=reason.value)
    for end in BatchState:
        if end.terminal:
            metrics.expect("batches_finished", state=end.value)
    for cause in ("rebuild", "audit", "missing", "lease"):
        metrics.expect("reconcile_repairs", cause=cause)
    for kind in fields(RetentionDays):
        metrics.expect("purged", kind=kind.name)
    metrics.set("queue_contact", 0)
