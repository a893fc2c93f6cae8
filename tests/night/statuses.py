"""System statuses as a gateway would send them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2

from gramserve.v1.operations_pb2 import QueueStatus, SystemStatus, WorkerStatus
from gramserve.v1.slide_batch_pb2 import CompletionStats, SlideBatch

NOW = datetime(2026, 11, 26, 3, 12, 40, tzinfo=UTC)


def worker(name: str = "scan-2-4711-a1b2c3", **fields: object) -> WorkerStatus:
    made = WorkerStatus(
        worker_id=name,
        release="0.1.0",
        ready_children=4,
        children=4,
        leased_count=17,
        model_versions=["models/gram/versions/3", "models/gram/versions/4"],
        serving=True,
    )
    made.age.FromMilliseconds(900)
    made.longest_lease.FromMilliseconds(4100)
    for field, value in fields.items():
        setattr(made, field, value)
    return made


def batch(
    name: str, priority: str, stats: CompletionStats, *, due: float = 0, ends: float = 0, ended: float = 0
) -> SlideBatch:
    """A batch of laboratory north; times are hours from now."""
    state = "STATE_SUCCEEDED" if ended and not stats.failed_count else "STATE_RUNNING"
    if ended and stats.failed_count:
        state = "STATE_PARTIALLY_SUCCEEDED"
    made = SlideBatch(
        name=f"laboratories/north/slideBatches/{name}",
        priority=SlideBatch.Priority.Value(f"PRIORITY_{priority}"),
        state=SlideBatch.State.Value(state),
        model_version="models/gram/versions/3",
        completion_stats=stats,
    )
    for field, hours in (("deliver_by", due), ("estimated_end_time", ends), ("end_time", ended)):
        if hours:
            getattr(made, field).FromDatetime(NOW + timedelta(hours=hours))
    return made


def counts(**by_state: int) -> CompletionStats:
    """Slides by state."""
    return CompletionStats(**{f"{state}_count": count for state, count in by_state.items()})


def failure(reason: str) -> status_pb2.Status:
    """The error of a slide."""
    detail = AnyMessage()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="gramserve"))
    return status_pb2.Status(code=9, message="a sentence", details=[detail])


def night(**fields: object) -> SystemStatus:
    """A night that goes well: two open batches, one that has ended, two workers."""
    ended = batch(
        "evening",
        "ROUTINE",
        CompletionStats(total_count=400, succeeded_count=391, failed_count=9, review_count=12),
        ended=-2,
    )
    ended.partial_failures.extend([failure("CORRUPT_IMAGE")] * 7 + [failure("UNSUPPORTED_FORMAT")] * 2)
    running = counts(total=4410, queued=1530, running=34, succeeded=2838, failed=8, review=49)
    status = SystemStatus(
        release="0.1.0",
        queue=QueueStatus(stat_count=1, routine_count=1530, leased_count=34, delayed_count=2),
        workers=[worker(), worker("scan-3-1822-d4e5f6", leased_count=17)],
        completion_stats=counts(total=4811, queued=1531, running=34, succeeded=3229, failed=17, review=61),
        slides_per_second=0.42,
        slide_batches=[
            batch("bc-0412", "STAT", counts(total=1, queued=1), due=0.5, ends=0.01),
            batch("night-north", "ROUTINE", running, due=3.3, ends=1.05),
            ended,
        ],
        slide_batch_count=3,
    )
    status.time.FromDatetime(NOW)
    status.estimated_end_time.FromDatetime(NOW + timedelta(hours=1.05))
    status.queue.oldest_stat_wait.FromMilliseconds(40)
    status.queue.oldest_routine_wait.FromSeconds(11_400)
    for field, value in fields.items():
        setattr(status, field, value)
    return status
