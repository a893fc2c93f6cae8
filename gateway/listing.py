"""Pages of batches and of slides, filtered."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gateway.convert import slide_to_message
from gateway.filters import BATCH_FIELDS, SLIDE_FIELDS, parse_filter
from gateway.names import BatchName, parse_batch, parse_laboratory
from gateway.paging import decode_token, encode_token, page_size
from gateway.rounds import READ_TOGETHER, Round, Rounds
from gateway.views import BatchView, Views
from gramserve.queue import Queue, Snapshot
from gramserve.store.batches import BatchStore
from gramserve.store.codec import RecordCorrupt
from gramserve.store.records import FinalRecord, OutcomeRecord, SlideState
from gramserve.v1 import slide_pb2
from gramserve.v1.slide_batch_service_pb2 import ListSlideBatchesRequest, ListSlidesRequest

_BATCHES = 50
_SLIDES = 200


class Listing:
    """Lists batches of a laboratory and slides of a batch."""

    def __init__(self, batches: BatchStore, rounds: Rounds, queue: Queue, views: Views) -> None:
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._views = views

    async def list_batches(self, request: ListSlideBatchesRequest) -> tuple[list[BatchView], str, list[BatchName]]:
        """A page of batches, newest first, the token of the next page, "" on the last, and those that are damaged."""
        laboratory = parse_laboratory(request.parent)
        size = page_size(request.page_size, _BATCHES)
        wanted = parse_filter(request.filter, BATCH_FIELDS)
        scope = ("batches", laboratory, request.filter)
        position = decode_token(scope, request.page_token, float, str)
        after = (position[0], position[1]) if position else None
        found: list[BatchView] = []
        damaged: set[str] = set()
        token = ""
        while len(found) < size:
            asked = size - len(found)
            records = await self._batches.list_batches(laboratory, limit=asked, after=after, damaged=damaged)
            for record in records:
                after = (record.create_time, record.batch)
                if wanted.get("priority", record.priority) != record.priority:
                    continue
                try:
                    view = await self._views.view(record)
                except RecordCorrupt:
                    damaged.add(record.batch)
                    continue
                if wanted.get("state", view.state) == view.state:
                    found.append(view)
            if len(records) < asked:
                break
        else:
            token = encode_token(scope, list(after)) if after else ""
        return found, token, [BatchName(laboratory, batch) for batch in sorted(damaged)]

    async def list_slides(self, request: ListSlidesRequest) -> tuple[list[slide_pb2.Slide], str]:
        """A page of slides in the order of submission, and the token of the next page, "" on the last."""
        name = parse_batch(request.parent, "parent")
        size = page_size(request.page_size, _SLIDES)
        wanted = parse_filter(request.filter, SLIDE_FIELDS)
        scope = ("slides", name.key, request.filter)
        position = decode_token(scope, request.page_token, int)
        record = await self._views.record(name)
        states = await self._states(name, await self._rounds.load(record))
        found: list[slide_pb2.Slide] = []
        start = position[0] if position else 0
        while start < record.slide_count:
            stop = min(start + READ_TOGETHER, record.slide_count)
            for index, (state, outcome) in (await states.of(range(start, stop))).items():
                if not _matches(state, outcome, wanted):
                    continue
                if len(found) == size:
                    return found, encode_token(scope, [index])
                slide = await self._batches.slide(name.laboratory, name.batch, index)
                found.append(slide_to_message(name, index, slide.slide_id, state, outcome))
            start = stop
        return found, ""

    async def _states(self, name: BatchName, current: Round) -> SlideStates:
        final = await self._batches.final(name.laboratory, name.batch, current.number)
        if final is not None:
            return SlideStates(name, self._rounds, current, final, None, ())
        # Leases first: a slide that ends in between is told by its outcome.
        running = await self._queue.running(name.key)
        return SlideStates(name, self._rounds, current, None, await self._queue.snapshot(name.key), running)


class SlideStates:
    """The states of a batch's slides: from its end where it has ended, else from outcomes and leases."""

    def __init__(
        self,
        name: BatchName,
        rounds: Rounds,
        current: Round,
        final: FinalRecord | None,
        snapshot: Snapshot | None,
        running: Collection[int],
    ) -> None:
        self._name = name
        self._rounds = rounds
        self._current = current
        self._final = final
        self._running = frozenset(running)
        stopping = snapshot.stopping if snapshot is not None else ""
        self._waiting = SlideState(stopping) if stopping else SlideState.QUEUED

    async def of(self, indices: range) -> dict[int, tuple[SlideState, OutcomeRecord | None]]:
        """State and outcome, where there is one, of each slide."""
        outcomes = await self._rounds.outcomes(self._name, self._current.number, indices)
        found: dict[int, tuple[SlideState, OutcomeRecord | None]] = {}
        for index in indices:
            outcome = outcomes.get(index)
            state = self._state(index, outcome)
            found[index] = (state, outcome if outcome is not None and outcome.state is state else None)
        return found

    def _state(self, index: int, outcome: OutcomeRecord | None) -> SlideState:
        if self._final is not None:
            return SlideState.from_letter(self._final.slide_states[index])
        if (before := self._current.settled_before(index)) is not None:
            return before
        if outcome is not None and outcome.round == self._current.number:
            return outcome.state
        return SlideState.RUNNING if index in self._running else self._waiting


def _matches(state: SlideState, outcome: OutcomeRecord | None, wanted: Mapping[str, str]) -> bool:
    if wanted.get("state", state) != state:
        return False
    review = outcome is not None and outcome.review_required
    return "review_required" not in wanted or wanted["review_required"] == str(review).lower()
