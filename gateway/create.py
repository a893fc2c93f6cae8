"""Accepting a batch: checked, then durable in the store, then queued, and only then answered."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping

from gateway.admission import Admission
from gateway.models import Models
from gateway.names import BatchName
from gateway.placement import Placement, accepted
from gateway.quotas import Quotas
from gateway.retention import check_kept
from gateway.submission import Examiner, Identity, Submission, identify
from gateway.turns import Turns
from gramserve import tracing
from gramserve.errors import AlreadyExists, Reason
from gramserve.metrics import Metrics
from gramserve.store import layout
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.batches import BatchStore
from gramserve.store.condemned import rescue
from gramserve.store.objects import ObjectMissing
from gramserve.store.records import BatchRecord, RequestRecord
from gramserve.store.registry import Resolved
from gramserve.v1 import slide_batch_service_pb2

_WRITE_TOGETHER = 16
_ID_DIGITS = 20


class Creator:
    """Accepts batches. `new_id` makes their ids, `clock` gives Unix seconds, `on_accepted` gets what to look after."""

    def __init__(
        self,
        batches: BatchStore,
        models: Models,
        examiner: Examiner,
        admission: Admission,
        placement: Placement,
        metrics: Metrics,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        on_accepted: Callable[[BatchName], None],
        audit: AuditLog,
        quotas: Quotas,
    ) -> None:
        self._batches = batches
        self._models = models
        self._examiner = examiner
        self._admission = admission
        self._placement = placement
        self._metrics = metrics
        self._clock = clock
        self._new_id = new_id
        self._on_accepted = on_accepted
        self._quotas = quotas
        self._audit = audit
        self._turns = Turns()

    async def create(
        self,
        request: slide_batch_service_pb2.CreateSlideBatchRequest,
        *,
        deliver_by: float | None = None,
        action: Action = Action.BATCH_CREATE,
    ) -> BatchRecord:
        """The batch that was accepted for this request, now or before (I3).

        `deliver_by` (Unix seconds) binds a new batch in place of the request's, and makes no other payload of it.
        With `validate_only` nothing is written and the record has no batch id unless the client chose one. `action` is
        what the audit record calls this.
        """
        identity = identify(request)
        async with self._turns.of((identity.laboratory, identity.request_id or identity.batch or self._new_id())):
            if (known := await self._accepted_before(identity)) is not None:
                await self._record(action, known)
                return known
            submission = await self._examiner.examine(request.slide_batch, identity.laboratory)
            resolved = await self._models.resolve(submission.model)
            await self._admission.check(len(submission.slides))
            record = self._draft(identity, submission, resolved)
            if deliver_by is not None:
                record = dataclasses.replace(record, deliver_by=deliver_by)
            async with self._quotas.room(identity.laboratory, record.priority, record.slide_count):
                if request.validate_only:
                    return record
                return await self._accept(identity, submission, record, action)

    async def _accepted_before(self, identity: Identity) -> BatchRecord | None:
        batch = identity.batch
        if identity.request_id:
            path = layout.request_path(identity.laboratory, identity.request_id)
            try:
                made = RequestRecord.from_json(await self._batches.objects.get(path))
            except ObjectMissing:
                pass
            else:
                _check_same(made, identity)
                batch = made.batch
        if batch:  # a request of a batch that was purged does not run again
            await check_kept(self._batches, BatchName(identity.laboratory, batch))
        known = await self._batches.get_batch(identity.laboratory, batch) if batch else None
        if known is not None:
            await self._place(_same_batch(known, identity))
        return known

    def _draft(self, identity: Identity, submission: Submission, resolved: Resolved) -> BatchRecord:
        return BatchRecord(
            laboratory=identity.laboratory,
            batch=identity.batch,
            request_id=identity.request_id,
            fingerprint=identity.fingerprint,
            model=submission.model,
            model_version=resolved.name,
            model_digest=resolved.digest,
            slide_count=len(submission.slides),
            priority=submission.priority,
            deliver_by=submission.deliver_by,
            max_failed_ratio=submission.max_failed_ratio,
            annotations=submission.annotations,
            create_time=self._clock(),
            reuse_results=submission.reuse_results,
            trace=tracing.current(),
        )

    async def _accept(
        self, identity: Identity, submission: Submission, draft: BatchRecord, action: Action
    ) -> BatchRecord:
        batch = identity.batch or (_id_of(identity) if identity.request_id else self._new_id())
        # Beside each other: a batch is accepted by what is written next, and all of these are harmless without it.
        record = dataclasses.replace(draft, batch=batch)
        made, *written = await asyncio.gather(
            self._ask(identity, batch),
            self._keep_all(identity.laboratory, submission.contents),
            self._prepare(record, submission, action),
            return_exceptions=True,
        )
        if isinstance(made, AlreadyExists) and not identity.batch:  # under an id of this payload, which never runs
            await self._batches.forget(record.laboratory, batch)
        if isinstance(made, BaseException):
            raise made
        for failure in written:
            if isinstance(failure, BaseException):
                raise failure
        if made != batch:  # a gateway that made its ids otherwise got as far as the request
            record = dataclasses.replace(draft, batch=made)
            await self._prepare(record, submission, action)
        kept = _same_batch(await self._batches.create_batch(record), identity)
        await self._place(kept, new=kept == record)
        return kept

    async def _ask(self, identity: Identity, batch: str) -> str:
        """The batch of this request: `batch`, unless an earlier one made another; raises AlreadyExists."""
        if not identity.request_id:
            return batch
        wanted = RequestRecord(batch, identity.fingerprint)
        made = await self._batches.create_request(identity.laboratory, identity.request_id, wanted)
        _check_same(made, identity)
        return made.batch

    async def _prepare(self, record: BatchRecord, submission: Submission, action: Action) -> None:
        await asyncio.gather(
            self._batches.write_manifest(record.laboratory, record.batch, submission.slides),
            self._record(action, record),
        )

    async def _record(self, action: Action, record: BatchRecord) -> None:
        name = BatchName(record.laboratory, record.batch)
        await self._audit.record(action, name.resource, artifact=record.model_digest, slides=record.slide_count)

    async def _keep_all(self, laboratory: str, contents: Mapping[str, bytes]) -> None:
        for some in _together(list(contents.items())):
            await asyncio.gather(*(self._keep(laboratory, digest, data) for digest, data in some))

    async def _keep(self, laboratory: str, digest: str, data: bytes) -> None:
        path = layout.slide_path(laboratory, digest)
        if not await self._batches.objects.create(path, data):
            await rescue(self._batches.objects, path)

    async def _place(self, record: BatchRecord, *, new: bool = False) -> None:
        """Queues a batch that the store has; whatever becomes of this, it is looked after from now on (I1)."""
        try:
            with accepted():
                if new:
                    self._metrics.count("slides_accepted", record.slide_count, priority=record.priority.value)
                    await self._placement.place_new(record)
                else:
                    await self._placement.ensure(record)
        finally:
            self._on_accepted(BatchName(record.laboratory, record.batch))


def _id_of(identity: Identity) -> str:
    """The id of the batch of a request: the same in every gateway, so that it need not be asked for first."""
    asked = f"{identity.laboratory}/{identity.request_id}/{identity.fingerprint}"
    return hashlib.sha256(asked.encode()).hexdigest()[:_ID_DIGITS]


def _check_same(made: RequestRecord, identity: Identity) -> None:
    if made.fingerprint != identity.fingerprint:
        raise AlreadyExists(
            Reason.REQUEST_ID_REUSED, "the request_id was used before with another payload; make a new one"
        )


def _same_batch(record: BatchRecord, identity: Identity) -> BatchRecord:
    if (record.request_id, record.fingerprint) != (identity.request_id, identity.fingerprint):
        raise AlreadyExists(Reason.BATCH_ID_TAKEN, "another batch has this slide_batch_id")
    return record


def _together(items: list[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    for start in range(0, len(items), _WRITE_TOGETHER):
        yield items[start : start + _WRITE_TOGETHER]
