"""What came out of running a shadow version beside production: tallies of each worker, added up by who asks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from gramserve.store import layout
from gramserve.store.codec import Record
from gramserve.store.objects import ObjectStore


class Verdict(StrEnum):
    """How a shadow's call of a slide compares with production's; the first that holds, but for SAME."""

    GRAM_FLIP = "GRAM_FLIP"
    MISSED_ORGANISM = "MISSED_ORGANISM"
    OUTCOME_DIFFERS = "OUTCOME_DIFFERS"
    FINDINGS_DIFFER = "FINDINGS_DIFFER"
    REVIEW_DIFFERS = "REVIEW_DIFFERS"
    SAME = "SAME"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"

    @property
    def compared(self) -> bool:
        """True when there were two calls to compare."""
        return self not in {Verdict.FAILED, Verdict.SKIPPED}

    @property
    def agrees(self) -> bool:
        """True when outcome and findings are the same."""
        return self in {Verdict.SAME, Verdict.REVIEW_DIFFERS}

    @property
    def very_major(self) -> bool:
        """True for what would harm a patient: an organism missed, or the Gram reaction turned over."""
        return self in {Verdict.GRAM_FLIP, Verdict.MISSED_ORGANISM}


@dataclass(frozen=True, slots=True)
class ShadowTally(Record):
    """Slides of one pair of versions by verdict; seconds inside the engines, over the compared slides, of both."""

    verdicts: dict[str, int] = field(default_factory=dict)
    production_s: float = 0.0
    candidate_s: float = 0.0

    def __add__(self, other: ShadowTally) -> ShadowTally:
        return ShadowTally(
            dict(Counter(self.verdicts) + Counter(other.verdicts)),
            self.production_s + other.production_s,
            self.candidate_s + other.candidate_s,
        )

    def count(self, *verdicts: Verdict) -> int:
        """Slides with one of these verdicts."""
        return sum(self.verdicts.get(verdict, 0) for verdict in verdicts)


class Shadows:
    """Keeps tallies. Each process writes its own object, whole, as often as it likes: nobody waits for anybody."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def write(self, model: str, production: int, candidate: int, writer: str, tally: ShadowTally) -> None:
        """Replaces what `writer`, one process of a worker, said before. Raises Exhausted, Unavailable."""
        await self._objects.put(f"{layout.shadow_folder(model, production, candidate)}/{writer}", tally.to_json())

    async def read(self, model: str, production: int, candidate: int) -> ShadowTally:
        """The sum over all writers. Raises RecordCorrupt, Unavailable."""
        folder = layout.shadow_folder(model, production, candidate)
        paths = [info.path async for info in self._objects.list(folder)]
        found = await self._objects.get_many(paths)
        return sum((ShadowTally.from_json(data) for data in found if data is not None), ShadowTally())
