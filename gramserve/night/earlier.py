"""Earlier nights in a row each, from the ends of their batches alone: no outcome is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from gramserve.night.batch import view_batch
from gramserve.night.facts import NightFacts
from gramserve.night.survey import accepted, purged
from gramserve.night.window import Night
from gramserve.store.batches import BatchStore
from gramserve.store.codec import RecordCorrupt
from gramserve.store.objects import ObjectStore
from gramserve.store.records import BatchRecord, SlideState


@dataclass(slots=True)
class NightRow:
    """Counts of one night; `finished` is when its last batch ended, Unix seconds, None before the first one did."""

    night: Night
    accepted: int = 0
    states: Counter[SlideState] = field(default_factory=Counter)
    review: int = 0
    purged: int = 0
    finished: float | None = None

    @classmethod
    def of(cls, facts: NightFacts) -> NightRow:
        """The row of a night of which all is known."""
        ends = [batch.end_time for batch in facts.batches if batch.end_time is not None]
        return cls(facts.night, facts.accepted, facts.states, facts.review, facts.purged, max(ends, default=None))

    @property
    def open(self) -> int:
        """Slides without an end."""
        return self.accepted - self.states.total()

    @property
    def failed_share(self) -> float | None:
        """Failed slides of those that were run, 0 to 1; None when none was."""
        ran = self.states[SlideState.SUCCEEDED] + self.states[SlideState.FAILED]
        return self.states[SlideState.FAILED] / ran if ran else None

    @property
    def review_share(self) -> float | None:
        """Slides for review of those with a call, 0 to 1; None when there are none."""
        called = self.states[SlideState.SUCCEEDED]
        return self.review / called if called else None


async def earlier(objects: ObjectStore, nights: Sequence[Night]) -> list[NightRow]:
    """A row for each of `nights`, without batches whose night cannot be read. Raises Unavailable."""
    batches, damaged = BatchStore(objects), set[str]()
    rows = [NightRow(night) for night in nights]
    for laboratory in await objects.folders("batches"):
        for row in rows:
            async for record in accepted(batches, laboratory, row.night, damaged):
                row.accepted += record.slide_count
                with suppress(RecordCorrupt):  # its slides count as open
                    await _take(batches, record, row)
    for laboratory in await objects.folders("tombstones"):
        stones = await purged(objects, laboratory, nights, damaged)
        for row in rows:
            row.purged += sum(
                stone.slide_count for stone in stones if row.night.begin <= stone.create_time < row.night.end
            )
    return rows


async def _take(batches: BatchStore, record: BatchRecord, row: NightRow) -> None:
    """Takes in how the slides of a batch ended."""
    number = await batches.current_round(record.laboratory, record.batch)
    final = await batches.final(record.laboratory, record.batch, number)
    if final is not None:
        row.states.update({state: getattr(final.counts, state.value.lower()) for state in SlideState if state.terminal})
        row.review += final.counts.review
        row.finished = max(row.finished or 0.0, final.end_time)
    elif number and (before := await batches.final(record.laboratory, record.batch, number - 1)) is not None:
        # Those that the retry did not put back have kept their end.
        row.states.update((await view_batch(batches, record)).counts())
        row.review += before.counts.review
