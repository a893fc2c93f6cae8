"""Records to messages: the one place that knows both."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2, status_pb2

from gateway.names import BatchName
from gateway.shadow import Comparison, Rate
from gateway.views import BatchView
from gramserve.calls import Call, Finding
from gramserve.errors import GramserveError, Reason, SlideFailed
from gramserve.rpc.status import to_status
from gramserve.store.records import AliasRecord, BatchRecord, Counts, ErrorRecord, OutcomeRecord, Priority, SlideState
from gramserve.store.shadows import Verdict
from gramserve.v1 import model_pb2, slide_batch_pb2, slide_pb2

_BATCH_CODES = {
    Reason.CANCELLED: code_pb2.CANCELLED,
    Reason.EXPIRED: code_pb2.DEADLINE_EXCEEDED,
    Reason.TOO_MANY_FAILURES: code_pb2.ABORTED,
}


def timestamp(seconds: float) -> Timestamp:
    """Unix seconds as a Timestamp, to the microsecond."""
    stamp = Timestamp()
    stamp.FromMicroseconds(round(seconds * 1e6))
    return stamp


def seconds_of(stamp: Timestamp) -> float:
    """A Timestamp as Unix seconds."""
    return stamp.seconds + stamp.nanos / 1e9


def batch_to_message(view: BatchView) -> slide_batch_pb2.SlideBatch:
    """A batch as clients see it."""
    record = view.record
    message = slide_batch_pb2.SlideBatch(
        name=view.name.resource,
        model=record.model,
        model_version=record.model_version,
        model_digest=record.model_digest,
        priority=priority_to_message(record.priority),
        max_failed_ratio=record.max_failed_ratio,
        result_reuse=_reuse(record),
        annotations=record.annotations,
        state=slide_batch_pb2.SlideBatch.State.Value(f"STATE_{view.state}"),
        completion_stats=counts_to_message(view.counts),
        partial_failures=[_slide_error(error, view.name.slide(index)) for index, error in view.failures],
        etag=view.etag,
        retry_round=view.round,
    )
    times = {
        "deliver_by": record.deliver_by,
        "create_time": record.create_time,
        "start_time": view.start_time,
        "end_time": view.end_time,
        "update_time": view.update_time,
        "estimated_end_time": view.estimated_end_time,
    }
    for field, time in times.items():
        if time is not None:
            getattr(message, field).CopyFrom(timestamp(time))
    if view.error is not None:
        message.error.CopyFrom(batch_error(view.error))
    if view.output_uri:
        message.output_info.output_directory_uri = view.output_uri
        message.output_info.manifest_digest = view.manifest_digest
    return message


def counts_to_message(counts: Counts) -> slide_batch_pb2.CompletionStats:
    """Slides by state."""
    return slide_batch_pb2.CompletionStats(
        total_count=counts.total,
        queued_count=counts.queued,
        running_count=counts.running,
        succeeded_count=counts.succeeded,
        failed_count=counts.failed,
        cancelled_count=counts.cancelled,
        expired_count=counts.expired,
        review_count=counts.review,
    )


def _reuse(record: BatchRecord) -> slide_batch_pb2.SlideBatch.ResultReuse.ValueType:
    batch = slide_batch_pb2.SlideBatch
    return batch.RESULT_REUSE_ON if record.reuse_results else batch.RESULT_REUSE_OFF


def draft_to_message(record: BatchRecord) -> slide_batch_pb2.SlideBatch:
    """What a batch would be: it has no state, and a name only where the client chose one."""
    message = slide_batch_pb2.SlideBatch(
        name=BatchName(record.laboratory, record.batch).resource if record.batch else "",
        model=record.model,
        model_version=record.model_version,
        model_digest=record.model_digest,
        priority=priority_to_message(record.priority),
        max_failed_ratio=record.max_failed_ratio,
        result_reuse=_reuse(record),
        annotations=record.annotations,
        completion_stats=slide_batch_pb2.CompletionStats(total_count=record.slide_count),
    )
    if record.deliver_by is not None:
        message.deliver_by.CopyFrom(timestamp(record.deliver_by))
    return message


def slide_to_message(
    name: BatchName,
    index: int,
    slide_id: str,
    state: SlideState,
    outcome: OutcomeRecord | None = None,
    *,
    attempts: int = 0,
    time: float | None = None,
) -> slide_pb2.Slide:
    """A slide as clients see it. `outcome` belongs to SUCCEEDED and FAILED; `attempts`, `time` are for other states."""
    message = slide_pb2.Slide(
        name=name.slide(index),
        index=index,
        slide_id=slide_id,
        state=slide_pb2.Slide.State.Value(f"STATE_{state}"),
        attempt_count=attempts,
    )
    if outcome is not None:
        message.attempt_count = outcome.attempts
        message.worker_id = outcome.worker_id
        message.artifact_digest = outcome.artifact_digest
        message.engine = outcome.engine
        message.reused = outcome.reused
        message.queue_duration.FromMicroseconds(round(outcome.queue_s * 1e6))
        message.inference_duration.FromMicroseconds(round(outcome.inference_s * 1e6))
        if outcome.call is not None:
            message.call.CopyFrom(call_to_message(Call.from_json(outcome.call)))
        if outcome.error is not None:
            message.error.CopyFrom(_slide_error(outcome.error, ""))
        time = outcome.time
    if time is not None:
        message.update_time.CopyFrom(timestamp(time))
    return message


def call_to_message(call: Call) -> slide_pb2.Call:
    """The call of a slide."""
    return slide_pb2.Call(
        outcome=slide_pb2.Call.Outcome.Value(f"OUTCOME_{call.outcome}"),
        findings=[_finding(finding) for finding in call.findings],
        unassessable_reason=call.unassessable_reason or "",
        review_required=call.review_required,
        review_reasons=list(call.review_reasons),
        tile_count=call.tile_count,
        assessed_tile_count=call.assessed_tiles,
        blank_tile_count=call.blank_tiles,
        unfocused_tile_count=call.unfocused_tiles,
        misscaled_tile_count=call.misscaled_tiles,
        suspected_findings=[_finding(finding) for finding in call.suspected],
    )


def _finding(finding: Finding) -> slide_pb2.Finding:
    message = slide_pb2.Finding(
        label=finding.label,
        probability=finding.probability,
        tile_count=finding.tile_count,
        evidence=[
            slide_pb2.Evidence(
                image_index=tile.image_index,
                x=tile.x,
                y=tile.y,
                width=tile.width,
                height=tile.height,
                probability=tile.probability,
            )
            for tile in finding.evidence
        ],
        gram=finding.gram,
        morphology=finding.morphology,
        arrangement=finding.arrangement,
    )
    if finding.quantity is not None:
        message.quantity = slide_pb2.Finding.Quantity.Value(f"QUANTITY_{finding.quantity}")
    return message


def batch_error(error: ErrorRecord) -> status_pb2.Status:
    """Why a batch ended without all its results."""
    reason = _reason(error)
    status = to_status(GramserveError(reason, error.message))
    status.code = _BATCH_CODES.get(reason, status.code)
    return status


def priority_to_message(priority: Priority) -> slide_batch_pb2.SlideBatch.Priority.ValueType:
    """The scheduling class."""
    return slide_batch_pb2.SlideBatch.Priority.Value(f"PRIORITY_{priority}")


def model_to_message(model: str, aliases: dict[str, AliasRecord], latest_version: int) -> model_pb2.Model:
    """A model with its aliases, by name."""
    return model_pb2.Model(
        name=f"models/{model}",
        aliases=[
            model_pb2.Alias(name=name, version=alias.version, update_time=timestamp(alias.time), share=alias.share)
            for name, alias in sorted(aliases.items())
        ],
        latest_version=latest_version,
    )


def shadow_to_message(found: Comparison) -> model_pb2.ModelShadow:
    """What came out of a shadow."""
    verdicts = model_pb2.ModelShadow.Verdict
    message = model_pb2.ModelShadow(
        name=f"models/{found.model}/shadow",
        production_version=found.production,
        shadow_version=found.candidate,
        share=found.share,
        compared_count=found.compared,
        counts=[
            model_pb2.ModelShadow.Count(verdict=verdicts.Value(f"VERDICT_{verdict}"), slide_count=count)
            for verdict in Verdict
            if (count := found.tally.count(verdict))
        ],
        speed_ratio=found.speed_ratio,
    )
    if found.agreement is not None:
        message.agreement.CopyFrom(_rate(found.agreement))
    if found.very_major is not None:
        message.very_major.CopyFrom(_rate(found.very_major))
    return message


def _rate(rate: Rate) -> model_pb2.ModelShadow.Rate:
    return model_pb2.ModelShadow.Rate(value=rate.value, low=rate.low, high=rate.high)


def _slide_error(error: ErrorRecord, slide: str) -> status_pb2.Status:
    return to_status(SlideFailed(_reason(error), error.message, metadata={"slide": slide} if slide else {}))


def _reason(error: ErrorRecord) -> Reason:
    return Reason.__members__.get(error.reason, Reason.INTERNAL)
