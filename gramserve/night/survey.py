"""Reading one night from the store, batch by batch and slide by slide, in bounded memory but for a few numbers each."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence

from gramserve.errors import NotFound
from gramserve.night.batch import BatchView, view_batch
from gramserve.night.facts import BatchFacts, Failures, ModelUse, NightFacts, Place, Review
from gramserve.night.window import Night
from gramserve.store.batches import BatchStore
from gramserve.store.codec import RecordCorrupt
from gramserve.store.objects import ObjectStore
from gramserve.store.records import BatchRecord, OutcomeRecord, SlideState, TombstoneRecord

QUARTER_S = 900
MOST_REVIEWS = 500
"""Slides for review of a priority that are listed; all are counted."""
MOST_PROBLEMS = 50
_PAGE = 256


async def survey(objects: ObjectStore, night: Night, now: float) -> NightFacts:
    """What became of the slides that were accepted in `night`, as of `now` (Unix seconds).

    Slides of a batch with a damaged record count as open, and a problem says so. Where what was accepted is damaged,
    the night of the batch is not known: it is told in every one. Raises Unavailable when the store cannot be read.
    """
    batches, facts = BatchStore(objects), NightFacts(night, now)
    for laboratory in await objects.folders("batches"):
        damaged: set[str] = set()
        async for record in accepted(batches, laboratory, night, damaged):
            try:
                await _read(batches, record, facts)
            except (RecordCorrupt, NotFound) as fault:  # of this batch no more is known; the others have their report
                lost = "a part of its manifest is missing; restore it from a backup"
                why = fault.message if isinstance(fault, RecordCorrupt) else lost
                facts.problems.append(f"{record.laboratory}/{record.batch}: {why}")
                _take(facts, record, Counter(), 0, None)
        _tell(facts, laboratory, damaged, "what was accepted")
    for laboratory in await objects.folders("tombstones"):
        damaged = set()
        facts.purged += sum(stone.slide_count for stone in await purged(objects, laboratory, [night], damaged))
        _tell(facts, laboratory, damaged, "what was purged")
    del facts.problems[MOST_PROBLEMS:]
    return facts


async def any_accepted(objects: ObjectStore, night: Night) -> bool:
    """Whether a batch was, or may have been, accepted in `night`. Raises Unavailable."""
    batches = BatchStore(objects)
    for laboratory in await objects.folders("batches"):
        damaged: set[str] = set()
        async for _ in accepted(batches, laboratory, night, damaged):
            return True
        if damaged:
            return True
    return False


async def accepted(batches: BatchStore, laboratory: str, night: Night, damaged: set[str]) -> AsyncIterator[BatchRecord]:
    """The batches that were accepted in `night`, newest first; those of which nothing can be read are `damaged`."""
    after = (night.end, "")
    while True:
        page = await batches.list_batches(laboratory, limit=_PAGE, after=after, damaged=damaged)
        for record in page:
            if record.create_time < night.begin:
                return
            if record.create_time < night.end:
                yield record
        if len(page) < _PAGE:
            return
        after = (page[-1].create_time, page[-1].batch)


async def purged(
    objects: ObjectStore, laboratory: str, nights: Sequence[Night], damaged: set[str]
) -> list[TombstoneRecord]:
    """What is left of the batches that were accepted in one of `nights` and deleted since, or else is `damaged`."""
    paths = [info.path async for info in objects.list(f"tombstones/{laboratory}")]
    found: list[TombstoneRecord] = []
    for start in range(0, len(paths), _PAGE):
        some = paths[start : start + _PAGE]
        for path, data in zip(some, await objects.get_many(some), strict=True):
            try:
                stone = TombstoneRecord.from_json(data) if data is not None else None
            except RecordCorrupt:
                damaged.add(path.rpartition("/")[2].removesuffix(".json"))
                continue
            if stone is not None and any(night.begin <= stone.create_time < night.end for night in nights):
                found.append(stone)
    return found


def _tell(facts: NightFacts, laboratory: str, damaged: set[str], what: str) -> None:
    """Counts batches that are in no sum, and names them."""
    facts.damaged += len(damaged)
    facts.problems += [
        f"{laboratory}/{batch}: the record of {what} is damaged, so that its night is not known and its slides are "
        "in no sum; restore it from a backup"
        for batch in sorted(damaged)
    ]


async def _read(batches: BatchStore, record: BatchRecord, facts: NightFacts) -> None:
    view = await view_batch(batches, record)
    review = 0
    async for outcome in batches.outcomes(record.laboratory, record.batch):
        if view.take(outcome):
            review += outcome.review_required
            await _note(batches, view, outcome, facts)
    view.check()
    states = view.counts()
    for state in (SlideState.CANCELLED, SlideState.EXPIRED):
        if states[state] and (at := view.stopped_at(state)) is not None:
            _ended(facts, at, state, states[state])
    _take(facts, record, states, review, view.final.end_time if view.final is not None else None)
    facts.problems += view.problems


def _take(
    facts: NightFacts, record: BatchRecord, states: Counter[SlideState], review: int, end_time: float | None
) -> None:
    """Takes a batch into the sums."""
    batch = BatchFacts(
        record.laboratory,
        record.batch,
        record.priority,
        record.model_version,
        record.slide_count,
        states,
        review,
        record.create_time,
        record.deliver_by,
        end_time,
    )
    facts.batches.append(batch)
    facts.accepted += record.slide_count
    facts.states.update(states)
    facts.open += batch.open
    facts.review += review


async def _note(batches: BatchStore, view: BatchView, outcome: OutcomeRecord, facts: NightFacts) -> None:
    """Takes in the end of one slide."""
    record = view.record
    _ended(facts, outcome.time, outcome.state, 1)
    facts.late += record.deliver_by is not None and outcome.time > record.deliver_by
    times = facts.times[record.priority]
    times.wait.append(outcome.queue_s)
    if outcome.reused:
        facts.reused += 1
    else:
        # The clocks of gateway, Redis and worker may differ by a little.
        accepted_at = view.accepted_at.get(outcome.round, record.create_time)
        times.run.append(max(0.0, outcome.time - accepted_at - outcome.queue_s))
    if outcome.state is SlideState.FAILED:
        await _note_failure(batches, view, outcome, facts)
    elif outcome.call is not None:
        await _note_call(batches, view, outcome, facts)


async def _note_failure(batches: BatchStore, view: BatchView, outcome: OutcomeRecord, facts: NightFacts) -> None:
    reason = outcome.error.reason if outcome.error is not None else "UNKNOWN"
    failures = facts.failures.setdefault(reason, Failures(reason))
    failures.count += 1
    if outcome.time < failures.time:
        failures.time = outcome.time
        failures.message = outcome.error.message if outcome.error is not None else ""
        failures.first = await _place(batches, view.record, outcome.index)


async def _note_call(batches: BatchStore, view: BatchView, outcome: OutcomeRecord, facts: NightFacts) -> None:
    record, call = view.record, outcome.call or {}
    if outcome.artifact_digest != record.model_digest and len(view.problems) < MOST_PROBLEMS:
        view.problems.append(f"{view.name}: slide {outcome.index} was called by another artifact than its batch names")
    use = facts.models.setdefault(
        (record.model_version, outcome.artifact_digest), ModelUse(record.model_version, outcome.artifact_digest)
    )
    use.slides += 1
    use.review += outcome.review_required
    use.outcomes[str(call.get("outcome", ""))] += 1
    use.labels.update(str(finding["label"]) for finding in call.get("findings", ()))
    use.engines[outcome.engine] += 1
    listed = facts.reviews[record.priority]
    if outcome.review_required and len(listed) < MOST_REVIEWS:
        slide = await batches.slide(record.laboratory, record.batch, outcome.index)
        place = Place(record.laboratory, record.batch, outcome.index, slide.slide_id)
        listed.append(Review(place, record.priority, call, slide.images))


async def _place(batches: BatchStore, record: BatchRecord, index: int) -> Place:
    names = await batches.slide_ids(record.laboratory, record.batch, [index])
    return Place(record.laboratory, record.batch, index, names[index])


def _ended(facts: NightFacts, at: float, state: SlideState, count: int) -> None:
    facts.ended.setdefault(at // QUARTER_S * QUARTER_S, Counter())[state] += count
