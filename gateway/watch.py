"""Following a batch: its events in order, from any sequence number on, at the reader's own pace."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence

from gateway.convert import batch_to_message, slide_to_message
from gateway.names import BatchName
from gateway.rounds import READ_TOGETHER, Round, Rounds
from gateway.views import Views
from gramserve.errors import Reason, Unavailable
from gramserve.queue import Event, Queue
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, BatchState, FinalRecord, OutcomeRecord, SlideState
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse

PAGE_EVENTS = 100
_LOOK_S = 1.0
_WITH_OUTCOME = {SlideState.SUCCEEDED, SlideState.FAILED}


class Watcher:
    """Streams events. `heartbeat_s` is the longest silence; `monotonic` gives seconds.

    Nothing is kept for a reader but one page of events: the next page is read when the last one was taken, so a slow
    reader costs no memory and no other reader's time.
    """

    def __init__(
        self,
        batches: BatchStore,
        rounds: Rounds,
        queue: Queue,
        views: Views,
        *,
        heartbeat_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._views = views
        self._heartbeat_s = heartbeat_s
        self._monotonic = monotonic
        self._stopping = False

    def stop(self) -> None:
        """Ends all streams within a second, with SHUTTING_DOWN: their readers resume elsewhere."""
        self._stopping = True

    async def watch(self, name: BatchName, after: int) -> AsyncIterator[WatchSlideBatchResponse]:
        """All events above `after` until the batch has ended.

        Events that Redis lost are told from the store: slides that ended before are reported as they are now, under
        numbers between those of the old and the new events. Raises NotFound, Unavailable.
        """
        record = await self._views.record(name)
        sequence, spoke = after, self._monotonic()
        while True:
            events = await self._queue.events(name.key, sequence, PAGE_EVENTS)
            if not events:
                final = await self._final(name)
                if final is not None:
                    snapshot = await self._queue.snapshot(name.key)
                    if snapshot is None:
                        async for response in self._recall_end(name, record, final, sequence):
                            yield response
                        return
                    # The end is in the store a moment before its event: wait for that.
                    if snapshot.finished and snapshot.round == final.round and sequence >= snapshot.last_sequence:
                        return
                if self._monotonic() - spoke >= self._heartbeat_s:
                    yield await self._batch_response(record, sequence, None)
                    spoke = self._monotonic()
                await self._wait(name, sequence)
                continue
            if events[0].sequence > sequence + 1:  # the queue was rebuilt: what is before it is known to the store only
                async for response in self._recall(name, record, events[0].sequence - record.slide_count, sequence):
                    yield response
            async for response in self._responses(name, record, events):
                yield response
            sequence, spoke = events[-1].sequence, self._monotonic()

    async def _wait(self, name: BatchName, sequence: int) -> None:
        if self._stopping:
            raise Unavailable(Reason.SHUTTING_DOWN, "the gateway is stopping; watch again", retry_after_s=1.0)
        await self._queue.wait_events(name.key, sequence, min(_LOOK_S, self._heartbeat_s))

    async def _final(self, name: BatchName) -> FinalRecord | None:
        number = await self._batches.current_round(name.laboratory, name.batch)
        return await self._batches.final(name.laboratory, name.batch, number)

    async def _responses(
        self, name: BatchName, record: BatchRecord, events: Sequence[Event]
    ) -> AsyncIterator[WatchSlideBatchResponse]:
        ended = sorted({event.index for event in events if event.state in _WITH_OUTCOME and event.index >= 0})
        number = await self._batches.current_round(name.laboratory, name.batch)
        outcomes = await self._rounds.outcomes(name, number, ended)
        for event in events:
            if event.index < 0:
                yield await self._batch_response(record, event.sequence, BatchState(event.state))
                continue
            yield await self._slide_response(
                name, event.sequence, event.index, SlideState(event.state), outcomes.get(event.index), event
            )

    async def _slide_response(
        self,
        name: BatchName,
        sequence: int,
        index: int,
        state: SlideState,
        outcome: OutcomeRecord | None,
        event: Event | None = None,
    ) -> WatchSlideBatchResponse:
        slide = await self._batches.slide(name.laboratory, name.batch, index)
        message = slide_to_message(
            name,
            index,
            slide.slide_id,
            state,
            # An event of an earlier round does not tell the outcome of a later one.
            outcome if outcome is not None and outcome.state is state else None,
            attempts=event.attempts if event else 0,
            time=event.time_s if event else None,
        )
        return WatchSlideBatchResponse(sequence=sequence, slide=message)

    async def _batch_response(
        self, record: BatchRecord, sequence: int, state: BatchState | None
    ) -> WatchSlideBatchResponse:
        message = batch_to_message(await self._views.view(record))
        if state is not None and f"STATE_{state}" != message.State.Name(message.state):
            # An old event: the state it told of, beside the counts of now.
            message.state = message.State.Value(f"STATE_{state}")
            for field in ("end_time", "error", "output_info", "partial_failures"):
                message.ClearField(field)
        return WatchSlideBatchResponse(sequence=sequence, slide_batch=message)

    async def _recall(
        self, name: BatchName, record: BatchRecord, first: int, after: int
    ) -> AsyncIterator[WatchSlideBatchResponse]:
        """The slides that have ended, slide `i` as number `first + i`, above `after`: a reader can stop in between."""
        current = await self._rounds.load(record)
        final = await self._batches.final(name.laboratory, name.batch, current.number)
        for start in range(max(after + 1 - first, 0), record.slide_count, READ_TOGETHER):
            indices = range(start, min(start + READ_TOGETHER, record.slide_count))
            outcomes = await self._rounds.outcomes(name, current.number, indices)
            for index in indices:
                state = _ended_as(index, current, final, outcomes.get(index))
                if state is not None:
                    yield await self._slide_response(name, first + index, index, state, outcomes.get(index))

    async def _recall_end(
        self, name: BatchName, record: BatchRecord, final: FinalRecord, after: int
    ) -> AsyncIterator[WatchSlideBatchResponse]:
        """A whole batch that has ended and is gone from Redis; nothing for a reader who saw its last event."""
        last = final.last_sequence + record.slide_count + 1
        if after == final.last_sequence or after >= last:
            return
        async for response in self._recall(name, record, final.last_sequence + 1, after):
            yield response
        yield await self._batch_response(record, last, final.state)


def _ended_as(
    index: int, current: Round, final: FinalRecord | None, outcome: OutcomeRecord | None
) -> SlideState | None:
    if final is not None:
        return SlideState.from_letter(final.slide_states[index])
    if (before := current.settled_before(index)) is not None:
        return before
    return outcome.state if outcome is not None and outcome.round == current.number else None
