"""The series of the gateway that exist from its start, at 0: what appears with its first count is no increase."""

from __future__ import annotations

from gramserve.errors import Reason
from gramserve.metrics import Metrics
from gramserve.store.records import BatchState, Priority, SlideState

_ENDS = (
    (SlideState.FAILED, Reason.WORKER_CRASHED),
    (SlideState.CANCELLED, Reason.CANCELLED),
    (SlideState.CANCELLED, Reason.TOO_MANY_FAILURES),
    (SlideState.EXPIRED, Reason.EXPIRED),
)


def begin(metrics: Metrics) -> None:
    """Let them exist."""
    for priority in Priority:
        metrics.count("slides_accepted", 0, priority=priority.value)
        metrics.count("slides_resubmitted", 0, priority=priority.value)
    for state, reason in _ENDS:
        metrics.count("slides_ended", 0, state=state.value, reason=reason.value)
    for end in BatchState:
        if end.terminal:
            metrics.count("batches_finished", 0, state=end.value)
    for cause in ("rebuild", "audit", "missing", "lease"):
        metrics.count("reconcile_repairs", 0, cause=cause)
    metrics.set("queue_contact", 0)
