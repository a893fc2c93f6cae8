"""One slide at once: a STAT batch of one, accepted as every batch is, and its end waited for."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

from gateway.cancel import Canceller
from gateway.convert import slide_to_message
from gateway.create import Creator
from gateway.names import BatchName
from gateway.rounds import Rounds
from gramserve.errors import Conflict, DeadlineExceeded, GramserveError, InvalidInput, Reason, Unavailable
from gramserve.queue import Queue
from gramserve.store.audit_record import Action
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, OutcomeRecord, SlideState
from gramserve.v1 import slide_batch_pb2, slide_batch_service_pb2
from gramserve.v1.slide_pb2 import Slide

T = TypeVar("T")

DEFAULT_S = 60.0
"""How long a call without a deadline waits."""

LONGEST_S = 3600.0
"""How long any call waits at most."""

_MARGIN_S = 0.25  # an answer at the very deadline would come too late
_LOOK_S = 1.0
_EVENTS = 100
_WITH_OUTCOME = {SlideState.SUCCEEDED, SlideState.FAILED}
_WITHOUT = {SlideState.CANCELLED, SlideState.EXPIRED}


class SlideClassifier:
    """Classifies single slides. `clock` gives Unix seconds, `monotonic` seconds."""

    def __init__(
        self,
        creator: Creator,
        canceller: Canceller,
        batches: BatchStore,
        rounds: Rounds,
        queue: Queue,
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._creator = creator
        self._canceller = canceller
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._clock = clock
        self._monotonic = monotonic
        self._asking: Counter[tuple[str, str]] = Counter()
        self._cancelling: set[asyncio.Task[None]] = set()
        self._stopping = False

    def stop(self) -> None:
        """Ends all calls within a second, with SHUTTING_DOWN; their slides go on, for whoever repeats the call."""
        self._stopping = True

    async def close(self) -> None:
        """Breaks off what `stop` left; slides that were to be cancelled expire at their deadlines."""
        for task in self._cancelling:
            task.cancel()
        await asyncio.gather(*self._cancelling, return_exceptions=True)

    async def classify(self, request: slide_batch_service_pb2.ClassifySlideRequest, remaining_s: float | None) -> Slide:
        """The slide once it has ended; `remaining_s` of the call are left, None when it has no deadline.

        Raises DeadlineExceeded (EXPIRED) a moment before the deadline, or when the slide could not begin before an
        earlier one; Conflict (CANCELLED) when an earlier call was cancelled; what `Creator.create` raises; Unavailable
        when Redis fails meanwhile: the slide goes on. A call that is cancelled cancels the slide, unless it runs or
        another call waits for it.
        """
        left_s = min(DEFAULT_S if remaining_s is None else remaining_s, LONGEST_S)
        until_s = self._monotonic() + left_s - min(_MARGIN_S, left_s / 10)
        asked = (request.parent, request.request_id.lower())
        self._asking[asked] += 1
        # Tasks of their own: a cancel shall neither break off the acceptance nor get lost inside a Redis client.
        accepting = _quietly(self._accept(request, self._clock() + left_s))
        waiting: asyncio.Task[Slide] | None = None
        try:
            await asyncio.wait({accepting})
            waiting = _quietly(self._wait(request.slide.slide_id, accepting.result(), until_s))
            await asyncio.wait({waiting})
            return waiting.result()
        except asyncio.CancelledError:
            if waiting is not None:
                waiting.cancel()
            if not self._stopping and (self._asking[asked] == 1 or not request.request_id):
                task = asyncio.create_task(self._cancel(accepting))
                self._cancelling.add(task)
                task.add_done_callback(self._cancelling.discard)
            raise
        finally:
            self._asking[asked] -= 1
            if not self._asking[asked]:
                del self._asking[asked]

    async def _accept(self, request: slide_batch_service_pb2.ClassifySlideRequest, deliver_by: float) -> BatchRecord:
        create = slide_batch_service_pb2.CreateSlideBatchRequest(
            parent=request.parent,
            request_id=request.request_id,
            slide_batch=slide_batch_pb2.SlideBatch(
                model=request.model,
                slides=[request.slide],
                priority=slide_batch_pb2.SlideBatch.PRIORITY_STAT,
                annotations=request.annotations,
            ),
        )
        try:
            return await self._creator.create(create, deliver_by=deliver_by, action=Action.SLIDE_CLASSIFY)
        except InvalidInput as wrong:
            raise InvalidInput(
                wrong.reason,
                _as_asked(wrong.message),
                violations=[(_as_asked(field), what) for field, what in wrong.violations],
                metadata=wrong.metadata,
            ) from None

    async def _wait(self, slide_id: str, record: BatchRecord, until_s: float) -> Slide:
        name = BatchName(record.laboratory, record.batch)
        state, outcome = await self._ended(name, until_s)
        if state is SlideState.CANCELLED:
            raise Conflict(
                Reason.CANCELLED,
                "the slide was cancelled before it began, by an earlier call or by request; take a new request_id",
                metadata={"slide_batch": name.resource},
            )
        if state is SlideState.EXPIRED:
            _too_late(name, "the slide could not begin before the deadline; it was not run")
        return slide_to_message(name, 0, slide_id, state, outcome)

    async def _ended(self, name: BatchName, until_s: float) -> tuple[SlideState, OutcomeRecord | None]:
        """How the slide ended. Events say when to look; what it is, the store says, also when events were lost."""
        events = await self._queue.events(name.key, 0, _EVENTS)
        sequence = 0
        while True:
            states = [SlideState(event.state) for event in events if event.index == 0]
            for state in states:
                if state in _WITHOUT:
                    return state, None
            if not events or not _WITH_OUTCOME.isdisjoint(states):
                found = await self._look(name)
                if found is not None:
                    return found
            sequence = events[-1].sequence if events else sequence
            left_s = until_s - self._monotonic()
            if left_s <= 0:
                _too_late(name, "there is no result yet; read it from the batch, or repeat with the same request_id")
            if self._stopping:
                raise Unavailable(
                    Reason.SHUTTING_DOWN, "the gateway is stopping; repeat with the same request_id", retry_after_s=1.0
                )
            events = await self._queue.next_events(name.key, sequence, _EVENTS, min(_LOOK_S, left_s))

    async def _look(self, name: BatchName) -> tuple[SlideState, OutcomeRecord | None] | None:
        number = await self._batches.current_round(name.laboratory, name.batch)
        outcome = (await self._rounds.outcomes(name, number, [0])).get(0)
        if outcome is not None and outcome.round == number:
            return outcome.state, outcome
        final = await self._batches.final(name.laboratory, name.batch, number)
        if final is None:
            return None
        state = SlideState.from_letter(final.slide_states[0])
        return state, outcome if state in _WITH_OUTCOME else None

    async def _cancel(self, accepting: asyncio.Task[BatchRecord]) -> None:
        with suppress(GramserveError):  # it was never accepted, has ended, or expires at its deadline
            record = await accepting
            await self._canceller.cancel(BatchName(record.laboratory, record.batch))


def _quietly(steps: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task whose error is nobody's loss when its call was cancelled."""
    task = asyncio.create_task(steps)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _too_late(name: BatchName, message: str) -> NoReturn:
    raise DeadlineExceeded(Reason.EXPIRED, f"{message}: {name.resource}", metadata={"slide_batch": name.resource})


def _as_asked(text: str) -> str:
    """A field of the batch by its name in the request for one slide."""
    return text.replace("slide_batch.slides[0]", "slide").replace("slide_batch.", "")
