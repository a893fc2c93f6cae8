"""Optimizations as clients see them."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from gramserve.errors import GramserveError
from gramserve.rpc.status import to_status
from gramserve.store.manifest import Label
from gramserve.store.messages import label_to_message, version_to_message
from gramserve.store.registry import PRODUCTION, Registry
from gramserve.v1 import optimization_pb2
from optimizer_svc import names
from optimizer_svc.asked import show_settings
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.records import EndRecord, OptimizationRecord, ProgressRecord, State
from optimizer_svc.spec import TRIAL_STATES, TrialRow

MAX_TRIALS = 100


class Views:
    """Puts an optimization together from what the store holds; needs no Redis."""

    def __init__(self, optimizations: Optimizations, registry: Registry) -> None:
        self._optimizations = optimizations
        self._registry = registry

    async def view(self, record: OptimizationRecord, *, trials: bool = True) -> optimization_pb2.Optimization:
        """The optimization now; without its trials where many are shown."""
        end, progress = await self._optimizations.standing(record.optimization)
        message = _asked(record)
        message.state = optimization_pb2.Optimization.State.Value(f"STATE_{_state(end, progress)}")
        if progress is not None:
            message.progress.stage = progress.stage.lower()
            message.progress.fraction = progress.fraction
            message.progress.message = progress.message
            message.progress.elapsed.FromMicroseconds(round(progress.elapsed_s * 1e6))
            message.progress.remaining.FromMicroseconds(round(progress.remaining_s * 1e6))
            if trials:
                rows = await self._optimizations.trials(record.optimization)
                message.progress.trials.extend(map(_trial, rows[-MAX_TRIALS:]))
            _stamp(message.start_time, progress.start_time)
        if end is not None:
            await self._add_end(message, record, end)
        return message

    async def _add_end(
        self, message: optimization_pb2.Optimization, record: OptimizationRecord, end: EndRecord
    ) -> None:
        _stamp(message.end_time, end.time)
        if end.failure is not None:
            message.error.CopyFrom(to_status(end.failure.error()))
        if end.has_report:
            message.report_uri = self._optimizations.report_uri(record.optimization)
        if end.state is not State.SUCCEEDED:
            return
        message.progress.fraction = 1.0
        message.model_version.name = f"models/{record.model}/versions/{end.version}"
        message.model_version.digest = end.digest
        try:
            manifest, digest = await self._registry.manifest(record.model, end.version)
            alias = await self._registry.alias(record.model, PRODUCTION)
        except GramserveError:  # the artifact was removed since: what is known stays
            return
        aliases = [PRODUCTION] if alias is not None and alias.version == end.version else []
        message.model_version.CopyFrom(version_to_message(manifest, digest, aliases))


def _state(end: EndRecord | None, progress: ProgressRecord | None) -> State:
    if end is not None:
        return end.state
    return State.RUNNING if progress is not None else State.QUEUED


def _trial(row: TrialRow) -> optimization_pb2.Trial:
    state = f"STATE_{row.state if row.state in TRIAL_STATES else 'UNSPECIFIED'}"
    return optimization_pb2.Trial(
        name=row.name,
        network=row.network,
        recipe=row.recipe,
        engine=row.engine,
        images_per_second=row.images_per_s,
        accuracy=row.accuracy,
        size_bytes=row.size_bytes,
        state=optimization_pb2.Trial.State.Value(state),
        note=row.note,
    )


def _asked(record: OptimizationRecord) -> optimization_pb2.Optimization:
    message = optimization_pb2.Optimization(
        name=names.resource(record.optimization),
        model=f"models/{record.model}",
        architecture=record.architecture,
        labels=[label_to_message(Label.model_validate(label)) for label in record.labels],
        settings=show_settings(record),
    )
    for source, file in ((message.checkpoint, record.checkpoint), (message.data, record.data)):
        if file.sha256:
            source.sha256 = file.sha256
        else:
            source.uri = file.uri
    _stamp(message.create_time, record.create_time)
    return message


def _stamp(field: Timestamp, seconds: float) -> None:
    field.FromMicroseconds(round(seconds * 1e6))
