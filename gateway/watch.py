"""Following a batch: its events in order, from any sequence number on, at the reader's own pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

from gateway.convert import batch_to_message, slide_to_message
from gateway.names import BatchName
from gateway.rounds import Round, Rounds
from gateway.views import Views
from gramserve.errors import Reason, Unavailable
from gramserve.queue import Event, Queue
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, BatchState, FinalRecord, OutcomeRecord, SlideState
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse

PAGE_EVENTS = 100
_PACE_S = 0.2
_PACE_S_PER_SLIDE = 0.0005
_LOOK_S = 1.0
_WITH_OUTCOME = {SlideState.SUCCEEDED, SlideState.FAILED}
_ENDS = {state for state in SlideState if state.terminal}


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

    async def watch(self, name: BatchName, after: int) -> AsyncIterator[list[WatchSlideBatchResponse]]:
        """All events above `after`, a page at a time, until the batch has ended.

        Events that Redis lost are told from the store: slides that ended before are reported as they are now, under
        numbers between those of the old and the new events. Raises NotFound, Unavailable.
        """
        record = await self._views.record(name)
        sequence, spoke = after, self._monotonic()
        number, looking, left = -1, True, record.slide_count
        while True:
            events = await self._events(name, sequence, wait=not looking)
            if not events:
                final = await self._final(name)
                if final is not None:
                    snapshot = await self._queue.snapshot(name.key)
                    if snapshot is None:
                        async for page in self._recall_end(name, record, final, sequence):
                            yield page
                        return
                    # The end is in the store a moment before its event: wait for that.
                    if snapshot.finished and snapshot.round == final.round and sequence >= snapshot.last_sequence:
                        return
                if self._monotonic() - spoke >= self._heartbeat_s:
                    yield [await self._batch_response(record, sequence, None)]
                    spoke = self._monotonic()
                looking = False
                continue
            if events[0].sequence > sequence + 1:  # the queue was rebuilt: what is before it is known to the store only
                async for page in self._recall(name, record, events[0].sequence - record.slide_count, sequence):
                    yield page
            of_batch = {event.state for event in events if event.index < 0}
            if number < 0 or BatchState.QUEUED in of_batch:  # each round begins with that
                number = await self._batches.current_round(name.laboratory, name.batch)
            yield await self._page(name, record, number, events)
            sequence, spoke = events[-1].sequence, self._monotonic()
            left -= sum(event.index >= 0 and event.state in _ENDS for event in events)
            looking = len(events) == PAGE_EVENTS or any(BatchState(state).terminal for state in of_batch)
            if not looking:
                # While many slides are left they end faster than they need to be told: some at a time cost less.
                await asyncio.sleep(min(_PACE_S, max(left, 0) * _PACE_S_PER_SLIDE))

    async def _events(self, name: BatchName, after: int, *, wait: bool) -> list[Event]:
        if not wait:
            return await self._queue.events(name.key, after, PAGE_EVENTS)
        if self._stopping:
            raise Unavailable(Reason.SHUTTING_DOWN, "the gateway is stopping; watch again", retry_after_s=1.0)
        return await self._queue.next_events(name.key, after, PAGE_EVENTS, min(_LOOK_S, self._heartbeat_s))

    async def _final(self, name: BatchName) -> FinalRecord | None:
        number = await self._batches.current_round(name.laboratory, name.batch)
        return await self._batches.final(name.laboratory, name.batch, number)

    async def _page(
        self, name: BatchName, record: BatchRecord, number: int, events: Sequence[Event]
    ) -> list[WatchSlideBatchResponse]:
        ended = sorted({event.index for event in events if event.state in _WITH_OUTCOME and event.index >= 0})
        outcomes = await self._rounds.outcomes(name, number, ended) if ended else {}
        slides = [event.index for event in events if event.index >= 0]
        slide_ids = await self._batches.slide_ids(name.laboratory, name.batch, slides)
        page = []
        for event in events:
            if event.index < 0:
                page.append(await self._batch_response(record, event.sequence, BatchState(event.state)))
                continue
            state, outcome = SlideState(event.state), outcomes.get(event.index)
            page.append(
                _slide_response(name, event.sequence, event.index, slide_ids[event.index], state, outcome, event)
            )
        return page

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
    ) -> AsyncIterator[list[WatchSlideBatchResponse]]:
        """The slides that have ended, slide `i` as number `first + i`, above `after`: a reader can stop in between."""
        current = await self._rounds.load(record)
        final = await self._batches.final(name.laboratory, name.batch, current.number)
        for start in range(max(after + 1 - first, 0), record.slide_count, PAGE_EVENTS):
            indices = range(start, min(start + PAGE_EVENTS, record.slide_count))
            outcomes = await self._rounds.outcomes(name, current.number, indices)
            states = {index: _ended_as(index, current, final, outcomes.get(index)) for index in indices}
            slide_ids = await self._batches.slide_ids(name.laboratory, name.batch, indices)
            yield [
                _slide_response(name, first + index, index, slide_ids[index], state, outcomes.get(index))
                for index, state in states.items()
                if state is not None
            ]

    async def _recall_end(
        self, name: BatchName, record: BatchRecord, final: FinalRecord, after: int
    ) -> AsyncIterator[list[WatchSlideBatchResponse]]:
        """A whole batch that has ended and is gone from Redis; nothing for a reader who saw its last event."""
        last = final.last_sequence + record.slide_count + 1
        if after == final.last_sequence or after >= last:
            return
        async for page in self._recall(name, record, final.last_sequence + 1, after):
            yield page
        yield [await self._batch_response(record, last, final.state)]


def pages(events: Sequence[WatchSlideBatchResponse], size: int) -> Iterator[WatchSlideBatchResponse]:
    """The events as responses of at most `size` each: the first, and those after it as further ones."""
    for start in range(0, len(events), size):
        first, further = events[start], events[start + 1 : start + size]
        first.further.extend(further)
        yield first


def _slide_response(
    name: BatchName,
    sequence: int,
    index: int,
    slide_id: str,
    state: SlideState,
    outcome: OutcomeRecord | None,
    event: Event | None = None,
) -> WatchSlideBatchResponse:
    message = slide_to_message(
        name,
        index,
        slide_id,
        state,
        # An event of an earlier round does not tell the outcome of a later one.
        outcome if outcome is not None and outcome.state is state else None,
        attempts=event.attempts if event else 0,
        time=event.time_s if event else None,
    )
    return WatchSlideBatchResponse(sequence=sequence, slide=message)


def _ended_as(
    index: int, current: Round, final: FinalRecord | None, outcome: OutcomeRecord | None
) -> SlideState | None:
    if final is not None:
        return SlideState.from_letter(final.slide_states[index])
    if (before := current.settled_before(index)) is not None:
        return before
    return outcome.state if outcome is not None and outcome.round == current.number else None
