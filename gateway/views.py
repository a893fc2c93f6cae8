"""What a client is shown of a batch: its state and counts, from the queue while it runs, from its end afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.etag import etag_of
from gateway.names import BatchName
from gateway.retention import check_kept
from gateway.rounds import Round, Rounds
from gramserve.errors import NotFound, Reason
from gramserve.queue import Queue, Snapshot
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, BatchState, Counts, ErrorRecord, FinalRecord, StopRecord

MAX_FAILURES = 20


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch at one moment; times are Unix seconds, None for what has not happened.

    `per_second` slides end in a second while some of them run. `failures` are (slide index, error) of at most 20 failed
    slides of a batch that has ended.
    """

    name: BatchName
    record: BatchRecord
    round: int
    state: BatchState
    counts: Counts
    etag: str
    update_time: float
    start_time: float | None = None
    end_time: float | None = None
    estimated_end_time: float | None = None
    per_second: float = 0.0
    error: ErrorRecord | None = None
    failures: tuple[tuple[int, ErrorRecord], ...] = ()
    output_uri: str = ""
    manifest_digest: str = ""


class Views:
    """Looks at batches. `clock` gives Unix seconds."""

    def __init__(self, batches: BatchStore, rounds: Rounds, queue: Queue, clock: Callable[[], float]) -> None:
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._clock = clock

    async def record(self, name: BatchName) -> BatchRecord:
        """The batch as it was accepted; raises NotFound (UNKNOWN_BATCH, BATCH_PURGED)."""
        await check_kept(self._batches, name)
        record = await self._batches.get_batch(name.laboratory, name.batch)
        if record is None:
            raise NotFound(Reason.UNKNOWN_BATCH, "there is no such batch")
        return record

    async def view(self, record: BatchRecord) -> BatchView:
        """The batch now; raises Unavailable while it runs and Redis does not answer."""
        name = BatchName(record.laboratory, record.batch)
        number = await self._batches.current_round(name.laboratory, name.batch)
        final = await self._batches.final(name.laboratory, name.batch, number)
        if final is not None:
            return await self._ended(name, record, final)
        snapshot = await self._queue.snapshot(name.key)
        if snapshot is not None and snapshot.round == number:
            stop = await self._batches.get_stop(name.laboratory, name.batch, number) if snapshot.stopping else None
            return self._running(name, record, snapshot, stop)
        return await self._forgotten(name, record, await self._rounds.load(record))

    async def _ended(self, name: BatchName, record: BatchRecord, final: FinalRecord) -> BatchView:
        failed = [index for index, letter in enumerate(final.slide_states) if letter == "F"][:MAX_FAILURES]
        outcomes = await self._rounds.outcomes(name, final.round, failed)
        return BatchView(
            name=name,
            record=record,
            round=final.round,
            state=final.state,
            counts=final.counts,
            etag=etag_of(record, final.round, final.state),
            update_time=final.end_time,
            start_time=final.start_time,
            end_time=final.end_time,
            error=final.error,
            failures=tuple((i, outcome.error) for i, outcome in sorted(outcomes.items()) if outcome.error is not None),
            output_uri=self._batches.output_uri(name.laboratory, name.batch, final.round),
            manifest_digest=final.manifest_digest,
        )

    def _running(self, name: BatchName, record: BatchRecord, now: Snapshot, stop: StopRecord | None) -> BatchView:
        began = now.first_start_s is not None or (now.round == 0 and now.succeeded + now.failed > 0)
        state = BatchState.RUNNING if began else BatchState.QUEUED
        if stop is not None or now.stopping == BatchState.CANCELLED:
            state = BatchState.CANCELLING
        left = now.queued + now.running
        estimated = self._clock() + left / now.done_rate if now.done_rate > 0 and began and left else None
        return BatchView(
            name=name,
            record=record,
            round=now.round,
            state=state,
            counts=Counts(
                now.total, now.queued, now.running, now.succeeded, now.failed, now.cancelled, now.expired, now.review
            ),
            etag=etag_of(record, now.round, state),
            update_time=now.last_end_s or now.first_start_s or record.create_time,
            start_time=now.first_start_s,
            estimated_end_time=estimated if state is BatchState.RUNNING else None,
            per_second=now.done_rate if now.running else 0.0,
        )

    async def _forgotten(self, name: BatchName, record: BatchRecord, current: Round) -> BatchView:
        """Redis lost the batch, and the reconciler did not put it back yet: the store still knows what is done."""
        progress = await self._rounds.progress(name, record, current)
        done = progress.done
        began = current.number == 0 and done.succeeded + done.failed > 0
        state = BatchState.RUNNING if began else BatchState.QUEUED
        if await self._batches.get_stop(name.laboratory, name.batch, current.number) is not None:
            state = BatchState.CANCELLING
        return BatchView(
            name=name,
            record=record,
            round=current.number,
            state=state,
            counts=Counts(
                record.slide_count,
                len(progress.remaining),
                0,
                done.succeeded,
                done.failed,
                done.cancelled,
                done.expired,
                done.review,
            ),
            etag=etag_of(record, current.number, state),
            update_time=current.accepted_s,
        )
