"""The current round of a batch as the store knows it: which slides run in it, what became of them."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

from gateway.names import BatchName
from gramserve.queue import Done
from gramserve.store import layout
from gramserve.store.batches import BatchStore
from gramserve.store.codec import RecordCorrupt
from gramserve.store.records import BatchRecord, FinalRecord, OutcomeRecord, SlideState

READ_TOGETHER = 256


@dataclass(frozen=True, slots=True)
class Round:
    """A pass over a batch: 0 over all slides, later ones over the slides that had failed.

    `indices` of its slides, ascending, and the same as `members`; `before` is the end of the previous round.
    """

    number: int
    indices: Sequence[int]
    members: Set[int] | range
    accepted_s: float
    before: FinalRecord | None = None

    def settled_before(self, index: int) -> SlideState | None:
        """The state of a slide that does not run in this round; None for one that does."""
        if index in self.members or self.before is None:
            return None
        return SlideState.from_letter(self.before.slide_states[index])


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a round has come in the store: slides that ended, over all of the batch, and those without an outcome."""

    done: Done
    remaining: list[int]


class Rounds:
    """Reads rounds and outcomes from the store."""

    def __init__(self, batches: BatchStore) -> None:
        self._batches = batches

    async def load(self, record: BatchRecord) -> Round:
        """The current round of a batch; raises RecordCorrupt when the end is gone of the round before it."""
        retries = await self._batches.get_rounds(record.laboratory, record.batch)
        if not retries:
            everything = range(record.slide_count)
            return Round(0, everything, everything, record.create_time)
        last = retries[-1]
        before = await self._batches.final(record.laboratory, record.batch, last.round - 1)
        if before is None:  # what became of the slides that do not run again is not known
            raise RecordCorrupt(FinalRecord.__name__)
        return Round(last.round, last.indices, frozenset(last.indices), last.time, before)

    async def outcomes(self, name: BatchName, number: int, indices: Sequence[int]) -> dict[int, OutcomeRecord]:
        """The outcome of each slide in the latest round up to `number` that has one."""
        found: dict[int, OutcomeRecord] = {}
        for start in range(0, len(indices), READ_TOGETHER):
            missing = indices[start : start + READ_TOGETHER]
            for earlier in range(number, -1, -1):
                paths = [layout.outcome_path(name.laboratory, name.batch, earlier, index) for index in missing]
                for index, data in zip(missing, await self._batches.objects.get_many(paths), strict=True):
                    if data is not None:
                        found[index] = OutcomeRecord.from_json(data)
                missing = [index for index in missing if index not in found]
                if not missing:
                    break
        return found

    async def progress(self, name: BatchName, record: BatchRecord, current: Round) -> Progress:
        """What the store knows of the round; reads every outcome of it."""
        counts = dict.fromkeys(SlideState, 0)
        review = current.before.counts.review if current.before else 0
        if current.before is not None:
            for index in range(record.slide_count):
                if (state := current.settled_before(index)) is not None:
                    counts[state] += 1
        recorded = await self._batches.recorded(name.laboratory, name.batch, current.number)
        for start in range(0, len(recorded), READ_TOGETHER):
            some = recorded[start : start + READ_TOGETHER]
            paths = [layout.outcome_path(name.laboratory, name.batch, current.number, index) for index in some]
            for data in await self._batches.objects.get_many(paths):
                if data is not None:
                    outcome = OutcomeRecord.from_json(data)
                    counts[outcome.state] += 1
                    review += outcome.review_required
        ended = set(recorded)
        done = Done(
            succeeded=counts[SlideState.SUCCEEDED],
            failed=counts[SlideState.FAILED],
            cancelled=counts[SlideState.CANCELLED],
            expired=counts[SlideState.EXPIRED],
            review=review,
        )
        return Progress(done, [index for index in current.indices if index not in ended])

    async def remaining(self, name: BatchName, current: Round) -> list[int]:
        """The slides of the round without an outcome, by name alone."""
        recorded = set(await self._batches.recorded(name.laboratory, name.batch, current.number))
        return [index for index in current.indices if index not in recorded]
