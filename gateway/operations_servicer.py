"""OperationsService: how the system stands, as a message."""

from __future__ import annotations

from typing import Any

from google.protobuf.duration_pb2 import Duration

from gateway.convert import batch_to_message, counts_to_message, seconds_of, timestamp
from gateway.system import MOST_SHOWN, System, SystemView
from gramserve.access.principal import current
from gramserve.metrics import installed_version
from gramserve.queue import Seen
from gramserve.v1 import operations_pb2, operations_service_pb2
from gramserve.v1.operations_service_pb2_grpc import OperationsServiceServicer


class OperationsServicer(OperationsServiceServicer):
    """The operator's API; see protos/gramserve/v1/operations_service.proto."""

    def __init__(self, system: SystemView) -> None:
        self._system = system

    async def GetSystemStatus(  # noqa: D102, N802
        self, request: operations_service_pb2.GetSystemStatusRequest, context: Any
    ) -> operations_pb2.SystemStatus:
        since = seconds_of(request.accepted_since) if request.HasField("accepted_since") else None
        return _to_message(await self._system.look(current(), since))


def _to_message(system: System) -> operations_pb2.SystemStatus:
    depth, ahead = system.depth, system.open
    shown = [*ahead.batches, *system.ended][:MOST_SHOWN]
    message = operations_pb2.SystemStatus(
        time=timestamp(system.time),
        release=installed_version(),
        queue=operations_pb2.QueueStatus(
            stat_count=depth.ready_stat,
            routine_count=depth.ready_routine,
            leased_count=depth.leased,
            delayed_count=depth.delayed,
            oldest_stat_wait=_duration(depth.oldest_stat_s),
            oldest_routine_wait=_duration(depth.oldest_routine_s),
        ),
        workers=[_worker(seen) for seen in system.workers],
        completion_stats=counts_to_message(system.counts),
        slides_per_second=ahead.per_second,
        late_count=ahead.late,
        slide_batches=[batch_to_message(view) for view in shown],
        slide_batch_count=len(ahead.batches) + len(system.ended),
        damaged_slide_batches=[name.resource for name in system.damaged],
        others_open=system.others_open,
    )
    if ahead.end_time is not None:
        message.estimated_end_time.CopyFrom(timestamp(ahead.end_time))
    return message


def _worker(seen: Seen) -> operations_pb2.WorkerStatus:
    card = seen.card
    return operations_pb2.WorkerStatus(
        worker_id=seen.worker,
        release=card.release,
        ready_children=card.ready,
        children=card.children,
        leased_count=card.leased,
        longest_lease=_duration(card.longest_s),
        model_versions=card.models,
        serving=card.serving,
        age=_duration(seen.age_s),
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromMicroseconds(round(seconds * 1e6))
    return duration
