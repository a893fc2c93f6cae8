"""Putting a batch into the queue: a new one, the retry of one, or one that Redis lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gateway.names import BatchName
from gateway.rounds import Rounds
from gramserve.errors import Exhausted, Reason, Unavailable
from gramserve.queue import Queue
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, Priority

_DUE_S = {Priority.STAT: 3600.0, Priority.ROUTINE: 86_400.0}


class Placement:
    """Makes the queue agree with the store. `clock` gives Unix seconds."""

    def __init__(self, batches: BatchStore, rounds: Rounds, queue: Queue, clock: Callable[[], float]) -> None:
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._clock = clock

    async def place_new(self, record: BatchRecord) -> None:
        """Queues all slides of a batch that was committed just now; its events start at 1."""
        key = BatchName(record.laboratory, record.batch).key
        await self._queue.open(
            key,
            round=0,
            total=record.slide_count,
            priority_stat=record.priority is Priority.STAT,
            due_s=due_s(record, record.create_time),
            hard_due_s=record.deliver_by,
            version=record.model_version,
            digest=record.model_digest,
            accepted_s=record.create_time,
            fresh=True,
        )
        await self._queue.submit(key, range(record.slide_count))

    async def restore(self, record: BatchRecord) -> int:
        """Queues what the store says is missing of the current round; returns how many slides that are.

        Safe to repeat, also from several gateways at once: opening a known round and submitting a slide twice change
        nothing. Of a stop and a deadline the one that came first decides again.
        """
        name = BatchName(record.laboratory, record.batch)
        current = await self._rounds.load(record)
        progress = await self._rounds.progress(name, record, current)
        stop = await self._batches.get_stop(name.laboratory, name.batch, current.number)
        stopped_in_time = stop is not None and (record.deliver_by is None or stop.time < record.deliver_by)
        opened = await self._queue.open(
            name.key,
            round=current.number,
            total=record.slide_count,
            done=progress.done,
            priority_stat=record.priority is Priority.STAT,
            due_s=due_s(record, current.accepted_s),
            hard_due_s=None if stopped_in_time else record.deliver_by,
            version=record.model_version,
            digest=record.model_digest,
            accepted_s=current.accepted_s,
        )
        if stopped_in_time:  # before there is a slide that could start
            await self._queue.cancel(name.key)
        # Whoever opened it counts what had ended at that time: later than our look, where that was somebody else.
        remaining = progress.remaining if opened else await self._rounds.remaining(name, current)
        queued = await self._queue.submit(name.key, remaining)
        if stop is not None:
            await self._queue.cancel(name.key)
        elif record.deliver_by is not None and record.deliver_by <= self._clock():
            await self._queue.expire(name.key)
        return queued

    async def ensure(self, record: BatchRecord) -> None:
        """Restores the batch unless Redis knows its current round and all of its slides."""
        name = BatchName(record.laboratory, record.batch)
        number = await self._batches.current_round(name.laboratory, name.batch)
        if await self._batches.final(name.laboratory, name.batch, number) is not None:
            return
        snapshot = await self._queue.snapshot(name.key)
        if snapshot is None or snapshot.round != number or not snapshot.submitted:
            await self.restore(record)


@contextmanager
def accepted() -> Iterator[None]:
    """For what the store has already: raises Unavailable where QUEUE_FULL would promise that nothing was accepted."""
    try:
        yield
    except Exhausted as error:
        raise Unavailable(
            Reason.QUEUE_UNAVAILABLE,
            "the slides are stored and will run, but Redis is out of memory; repeat with the same request_id",
            retry_after_s=error.retry_after_s,
        ) from error


def due_s(record: BatchRecord, accepted_s: float) -> float:
    """When results are wanted, Unix seconds: deliver_by, or an hour (STAT) or a day (ROUTINE) after acceptance."""
    return record.deliver_by if record.deliver_by is not None else accepted_s + _DUE_S[record.priority]
