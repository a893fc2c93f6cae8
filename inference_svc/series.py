"""The series of a worker that exist from its start, at 0: what appears with its first count is no increase."""

from __future__ import annotations

from gramserve.errors import Reason
from gramserve.metrics import Metrics
from gramserve.store.records import Priority, SlideState
from gramserve.store.shadows import Verdict
from inference_svc.plausible import LOAD_STEPS, STAGES

_SLIDE_REASONS = (
    Reason.EMPTY_IMAGE,
    Reason.UNSUPPORTED_FORMAT,
    Reason.UNSUPPORTED_PIXEL_FORMAT,
    Reason.CORRUPT_IMAGE,
    Reason.IMAGE_TOO_LARGE,
    Reason.IMAGE_TOO_SMALL,
    Reason.REFERENCE_NOT_FOUND,
    Reason.REFERENCE_DENIED,
    Reason.CHECKSUM_MISMATCH,
    Reason.NOT_A_SLIDE,
    Reason.SLIDE_UNREADABLE,
    Reason.WORKER_CRASHED,
    Reason.OUT_OF_MEMORY,
    Reason.SLIDE_TIMEOUT,
    Reason.CPU_TIME_EXCEEDED,
    Reason.ENGINE_FAILED,
    Reason.MODEL_UNAVAILABLE,
    Reason.STORE_UNAVAILABLE,
    Reason.INTERNAL,
)
_LOAD_REASONS = (
    Reason.ARTIFACT_INCOMPLETE,
    Reason.ARTIFACT_CORRUPT,
    Reason.ARTIFACT_GOLDEN_MISMATCH,
    Reason.ARTIFACT_UNTRUSTED,
    Reason.MODEL_UNAVAILABLE,
    Reason.UNKNOWN_MODEL_VERSION,
    Reason.OUT_OF_MEMORY,
)


def begin(metrics: Metrics) -> None:
    """Let them exist."""
    metrics.expect("slides_finished", state=SlideState.SUCCEEDED.value, reason="")
    for reason in _SLIDE_REASONS:
        metrics.expect("slides_finished", state=SlideState.FAILED.value, reason=reason.value)
        metrics.expect("slide_retries", reason=reason.value)
    for priority in Priority:
        metrics.expect("slide_wait_seconds", priority=priority.value)
        metrics.expect("slide_seconds", priority=priority.value)
    for stage in ("run", "store", *STAGES):
        metrics.expect("slide_stage_seconds", stage=stage)
    for step in LOAD_STEPS:
        metrics.expect("model_load_seconds", step=step)
    for reason in _LOAD_REASONS:
        metrics.expect("model_load_failures", reason=reason.value)
    for transition in ("complete", "fail", "renew"):
        metrics.expect("fenced", transition=transition)
    for verdict in Verdict:
        metrics.expect("shadow_slides", verdict=verdict.value)
    for cause in ("exhausted", "cancelled", "deadline"):
        metrics.expect("infer_dropped", cause=cause)
    for name in ("leases", "children", "queue_contact", "infer_in_flight", "models_loaded", "models_memory_bytes"):
        metrics.set(name, 0)
    metrics.set("models_failed", 0)
