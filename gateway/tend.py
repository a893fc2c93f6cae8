"""Looking after one open batch: that all of it is in the queue, that it may go on, that it moves."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from gateway.names import BatchName
from gateway.placement import Placement
from gateway.rounds import Rounds
from gateway.stop import Stopper
from gramserve import log
from gramserve.metrics import Metrics
from gramserve.queue import Queue, Snapshot
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, SlideState

_MAX_PATIENCE = 64


@dataclass(slots=True)
class Care:
    """What is remembered of a batch between two looks.

    Its `record`, so that many open batches are not read at each look. `compare` it with the store at the next look;
    `audit` its entries too. It was last `seen` moving at `since` (monotonic seconds); an audit that found nothing
    doubles the `patience` with which the next is awaited. So many slides were `unfinished`, which are due at
    `deliver_by` (Unix seconds).
    """

    record: BatchRecord | None = None
    compare: bool = True
    audit: bool = False
    seen: Snapshot | None = None
    since: float = 0.0
    patience: int = 1
    deliver_by: float | None = None
    unfinished: int = 0


class Tender:
    """Tends batches. `stall_s`: a batch that stands still for so long is audited. `clock` gives Unix seconds."""

    def __init__(
        self,
        batches: BatchStore,
        rounds: Rounds,
        queue: Queue,
        placement: Placement,
        stopper: Stopper,
        metrics: Metrics,
        *,
        stall_s: float,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._placement = placement
        self._stopper = stopper
        self._metrics = metrics
        self._stall_s = stall_s
        self._clock = clock
        self._monotonic = monotonic
        self._log = log.get()

    async def tend(self, name: BatchName, care: Care) -> bool:
        """One look; False when there is nothing to look after any more."""
        record = care.record = care.record or await self._batches.get_batch(name.laboratory, name.batch)
        if record is None:
            return False
        now = await self._queue.snapshot(name.key)
        if care.compare or now is None or now.finished or not now.submitted:
            number = await self._batches.current_round(name.laboratory, name.batch)
            if await self._batches.final(name.laboratory, name.batch, number) is not None:
                return False
            now = await self._compare(name, record, number, now)
            care.compare = False
        if now is not None:
            care.deliver_by, care.unfinished = record.deliver_by, now.queued + now.running
            await self._enforce(name, record, now)
            await self._notice_standstill(name, record, care, now)
        return True

    async def _compare(
        self, name: BatchName, record: BatchRecord, number: int, now: Snapshot | None
    ) -> Snapshot | None:
        """Brings into the queue what the store has and Redis has not; returns what Redis has now."""
        if now is None or now.round != number or not now.submitted:
            restored = await self._placement.restore(record)
            self._metrics.count("reconcile_repairs", restored, cause="rebuild")
            self._log.info("batch put back into the queue", slides=restored)
        elif not now.stopping and await self._batches.get_stop(name.laboratory, name.batch, number) is not None:
            await self._queue.cancel(name.key)
        else:
            return now
        return await self._queue.snapshot(name.key)

    async def _enforce(self, name: BatchName, record: BatchRecord, now: Snapshot) -> None:
        """Deadline, failure ratio, and the rest of a stop that was broken off."""
        if now.stopping:
            if now.queued and now.stopping == SlideState.CANCELLED:
                await self._queue.cancel(name.key)
            elif now.queued:
                await self._queue.expire(name.key)
        elif record.deliver_by is not None and record.deliver_by <= self._clock():
            await self._queue.expire(name.key)
        elif record.max_failed_ratio and now.failed / now.total > record.max_failed_ratio:
            await self._stopper.stop(record, now.round, "TOO_MANY_FAILURES")

    async def _notice_standstill(self, name: BatchName, record: BatchRecord, care: Care, now: Snapshot) -> None:
        if not care.audit:
            if now != care.seen:
                care.seen, care.since, care.patience = now, self._monotonic(), 1
                return
            if self._monotonic() - care.since < self._stall_s * care.patience:
                return
        else:  # Redis was restarted and may have lost its last events
            await self._queue.renumber(name.key)
        current = await self._rounds.load(record)
        repaired = await self._queue.audit(name.key, await self._rounds.remaining(name, current))
        if repaired:
            self._metrics.count("reconcile_repairs", repaired, cause="audit")
            self._log.warning("slides were in no place, or in two", slides=repaired)
        care.audit, care.seen, care.since = False, now, self._monotonic()
        care.patience = 1 if repaired else min(care.patience * 2, _MAX_PATIENCE)
