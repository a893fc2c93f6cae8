"""Running the failed slides of an ended batch once more."""

from __future__ import annotations

from collections.abc import Callable

from gateway.admission import Admission
from gateway.names import BatchName
from gateway.placement import Placement, accepted
from gateway.quotas import Quotas
from gateway.retention import check_kept
from gateway.submission import check_request_id
from gateway.turns import Turns
from gateway.views import BatchView, Views
from gramserve.errors import PreconditionFailed, Reason
from gramserve.metrics import Metrics
from gramserve.queue import Queue
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, RoundRecord, SlideState


class Retrier:
    """Begins new rounds, in turn with the finalizer; `on_change` gets what to look after. `clock`: Unix seconds."""

    def __init__(
        self,
        batches: BatchStore,
        queue: Queue,
        views: Views,
        admission: Admission,
        placement: Placement,
        turns: Turns,
        *,
        clock: Callable[[], float],
        on_change: Callable[[BatchName], None],
        audit: AuditLog,
        quotas: Quotas,
        metrics: Metrics,
    ) -> None:
        self._batches = batches
        self._queue = queue
        self._views = views
        self._admission = admission
        self._turns = turns
        self._placement = placement
        self._clock = clock
        self._on_change = on_change
        self._quotas = quotas
        self._audit = audit
        self._metrics = metrics

    async def retry(self, name: BatchName, request_id: str = "") -> BatchView:
        """Queues the FAILED slides of an ended batch as a new round; the same `request_id` does it once.

        Raises PreconditionFailed (BATCH_NOT_TERMINAL, NOTHING_TO_RETRY, DEADLINE_PASSED), InvalidInput, NotFound,
        Exhausted (QUEUE_FULL, LABORATORY_QUOTA), Unavailable.
        """
        request_id = check_request_id(request_id)
        record = await self._views.record(name)
        async with self._turns.of(name):
            rounds = await self._batches.get_rounds(name.laboratory, name.batch)
            if not (request_id and any(made.request_id == request_id for made in rounds)):
                await self._begin(name, record, request_id, rounds[-1].round if rounds else 0)
            self._on_change(name)
            with accepted():
                await self._placement.ensure(record)
        return await self._views.view(record)

    async def _begin(self, name: BatchName, record: BatchRecord, request_id: str, number: int) -> None:
        """Begins the round after `number`, which must have ended."""
        final = await self._batches.final(name.laboratory, name.batch, number)
        if final is None:
            raise _not_terminal()
        # A gateway may have died between the end and its event; afterwards that event would be of the wrong round.
        await self._queue.finish(name.key, final.state, expected_round=number)
        failed = tuple(i for i, letter in enumerate(final.slide_states) if letter == SlideState.FAILED.letter)
        if not failed:
            raise PreconditionFailed(Reason.NOTHING_TO_RETRY, "no slide of the batch failed")
        if record.deliver_by is not None and record.deliver_by <= self._clock():
            raise PreconditionFailed(
                Reason.DEADLINE_PASSED, "deliver_by of the batch has passed; submit the slides as a new batch"
            )
        await self._admission.check(len(failed))
        await self._audit.record(
            Action.BATCH_RETRY, name.resource, artifact=record.model_digest, round=number + 1, slides=len(failed)
        )
        wanted = RoundRecord(number + 1, request_id, failed, self._clock())
        async with self._quotas.room(name.laboratory, record.priority, len(failed)):
            kept = await self._batches.create_round(name.laboratory, name.batch, wanted)
        if await self._batches.is_purged(name.laboratory, name.batch):
            # Whoever purges the batch saw the new round and keeps it, or did not: neither is a retry that was accepted.
            await self._batches.withdraw_round(name.laboratory, name.batch, wanted.round)
            await check_kept(self._batches, name)
            raise _not_terminal()
        if kept != wanted and (not request_id or kept.request_id != request_id):
            raise _not_terminal()  # somebody else retried it at the same moment
        if kept == wanted:
            self._metrics.count("slides_resubmitted", len(failed), priority=record.priority.value)


def _not_terminal() -> PreconditionFailed:
    return PreconditionFailed(Reason.BATCH_NOT_TERMINAL, "the batch has not ended; retry it afterwards")
