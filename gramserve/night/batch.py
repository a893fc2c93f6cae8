"""One batch as the store tells it: which state each of its slides is in, and whether all records agree."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, FinalRecord, OutcomeRecord, RoundRecord, SlideState

OPEN = ord(".")
_RECORDED = frozenset({SlideState.SUCCEEDED, SlideState.FAILED})


@dataclass(slots=True)
class BatchView:
    """A batch, its last round and, where that has ended, its end; `states` has a letter per slide, "." without an end.

    `cancelled_at` and `accepted_at` (by round) are Unix seconds.
    """

    record: BatchRecord
    round: int
    final: FinalRecord | None
    states: bytearray
    accepted_at: dict[int, float]
    cancelled_at: float | None
    problems: list[str] = field(default_factory=list)
    _told: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        """For sentences: laboratory and batch."""
        return f"{self.record.laboratory}/{self.record.batch}"

    def take(self, outcome: OutcomeRecord) -> bool:
        """Takes in the latest outcome of a slide; False when it is not, or no longer, the end of that slide."""
        if not 0 <= outcome.index < len(self.states) or outcome.state not in _RECORDED:
            self.problems.append(f"{self.name}: an outcome of slide {outcome.index}, which the batch does not have")
            return False
        letter = chr(self.states[outcome.index])
        if letter == "." and (outcome.round == self.round and self.final is None):
            self.states[outcome.index] = ord(outcome.state.letter)
        elif letter != outcome.state.letter:
            if outcome.round == self.round:
                self.problems.append(f"{self.name}: slide {outcome.index} {outcome.state}, but the end says {letter}")
            return False  # it runs again, or its retry never ran
        self._told.add(outcome.index)
        return True

    def check(self) -> None:
        """After all outcomes: notes what the end of the batch says and the outcomes do not."""
        if self.final is None:
            return
        counts, total = self.final.counts, self.record.slide_count
        said = counts.succeeded + counts.failed + counts.cancelled + counts.expired
        if not total == counts.total == said == len(self.final.slide_states):
            self.problems.append(
                f"{self.name}: {total} slides were accepted, and its end counts {said} of {counts.total}"
            )
        letters = Counter(self.final.slide_states)
        for state in SlideState:
            if state.terminal and letters[state.letter] != getattr(counts, state.value.lower()):
                self.problems.append(f"{self.name}: its end counts another number of {state} slides than it lists")
        recorded = {ord(state.letter) for state in _RECORDED}
        lost = sum(letter in recorded and index not in self._told for index, letter in enumerate(self.states))
        if lost:
            self.problems.append(f"{self.name}: {lost} slides have ended, and their outcomes are missing")

    def counts(self) -> Counter[SlideState]:
        """The slides that have ended, by state."""
        return Counter(
            {state: count for state in SlideState if state.terminal and (count := self.states.count(ord(state.letter)))}
        )

    def stopped_at(self, state: SlideState) -> float | None:
        """When the slides that never ran became `state`; None while the batch is open."""
        if self.final is None:
            return None
        known = self.cancelled_at if state is SlideState.CANCELLED else self.record.deliver_by
        return self.final.end_time if known is None else min(known, self.final.end_time)


async def view_batch(batches: BatchStore, record: BatchRecord) -> BatchView:
    """`record` with its last round; its outcomes are still to be taken in. Raises what the store raises."""
    laboratory, batch = record.laboratory, record.batch
    number = await batches.current_round(laboratory, batch)
    final = await batches.final(laboratory, batch, number)
    stop = await batches.get_stop(laboratory, batch, number)
    retries = await batches.get_rounds(laboratory, batch) if number else []
    return BatchView(
        record,
        number,
        final,
        await _states(batches, record, number, final, retries),
        {0: record.create_time, **{retry.round: retry.time for retry in retries}},
        stop.time if stop is not None else None,
    )


async def _states(
    batches: BatchStore, record: BatchRecord, number: int, final: FinalRecord | None, retries: list[RoundRecord]
) -> bytearray:
    states = bytearray(b"." * record.slide_count)
    before = final
    if final is None and number:
        before = await batches.final(record.laboratory, record.batch, number - 1)
    if before is not None:
        known = before.slide_states.encode()[: record.slide_count]
        states[: len(known)] = known
    if final is None and retries:
        for index in retries[-1].indices:
            states[index] = OPEN
    return states
