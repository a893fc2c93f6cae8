"""Taking back the leases of workers that are gone, and ending slides that took too many workers with them."""

from __future__ import annotations

from collections.abc import Callable

from gateway.aside import Aside
from gateway.names import BatchName
from gateway.rounds import Rounds
from gramserve.errors import Reason, Unavailable
from gramserve.metrics import Metrics
from gramserve.queue import ContactWatch, Lease, Queue
from gramserve.store.batches import BatchStore
from gramserve.store.records import ErrorRecord, OutcomeRecord, SlideState

_CRASHED = ErrorRecord(
    Reason.WORKER_CRASHED.value, "running the slide crashed its process too often; it is quarantined"
)


class Sweeper:
    """Sweeps as `sweeper` whenever `contact` says that it is fair. `clock` gives Unix seconds."""

    def __init__(
        self,
        batches: BatchStore,
        rounds: Rounds,
        queue: Queue,
        contact: ContactWatch,
        metrics: Metrics,
        *,
        sweeper: str,
        clock: Callable[[], float],
    ) -> None:
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._contact = contact
        self._metrics = metrics
        self._sweeper = sweeper
        self._clock = clock

    async def step(self) -> None:
        """One sweep; what ending one of the slides raises is raised after it."""
        try:
            # A look of its own: since the last one the clock of Redis may have jumped.
            server = await self._contact.look(self._queue.server)
            if not self._contact.settled:
                return
            reclaimed = await self._queue.reclaim(self._sweeper, looked_s=server.time_s)
        except Unavailable:
            self._contact.lost()
            raise
        if reclaimed.requeued:
            self._metrics.count("reconcile_repairs", reclaimed.requeued, cause="lease")
        failures = Aside()
        for lease in reclaimed.condemned:
            with failures.put():  # the next sweep condemns it again; the others end now
                await self._quarantine(lease)
        failures.tell()

    async def _quarantine(self, lease: Lease) -> None:
        name = BatchName.from_key(lease.batch)
        outcome = OutcomeRecord(
            index=lease.index,
            round=lease.round,
            state=SlideState.FAILED,
            error=_CRASHED,
            attempts=lease.attempts + lease.crashes,
            artifact_digest=lease.digest,
            queue_s=lease.queued_s,
            time=self._clock(),
        )
        if await self._batches.record_outcome(name.laboratory, name.batch, outcome):
            self._metrics.count("slides_quarantined")
        else:  # the last worker wrote its result before it died: that one counts (I2)
            outcome = (await self._rounds.outcomes(name, lease.round, [lease.index]))[lease.index]
        if (await self._queue.complete(lease, self._sweeper, outcome.state.value, outcome.review_required)).accepted:
            reason = outcome.error.reason if outcome.error else ""
            self._metrics.count("slides_ended", state=outcome.state.value, reason=reason)
