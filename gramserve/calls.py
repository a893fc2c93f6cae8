"""What is reported for a slide: the call, its findings and the tiles that show them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """The outcome of the slide as a whole."""

    ORGANISMS_SEEN = "ORGANISMS_SEEN"
    NO_ORGANISM_SEEN = "NO_ORGANISM_SEEN"
    UNASSESSABLE = "UNASSESSABLE"


class ReviewReason(StrEnum):
    """Why a person must look before the call is used."""

    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    CONFLICTING_FINDINGS = "CONFLICTING_FINDINGS"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One tile that supports a finding: pixels of its image at full resolution; probability 0 to 1."""

    image_index: int
    x: int
    y: int
    width: int
    height: int
    probability: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One organism class seen on the slide; `probability` (0 to 1) that it is present; best tiles first."""

    label: str
    probability: float
    tile_count: int
    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """The call of one slide; findings most probable first; `tile_count` tiles were read."""

    outcome: Outcome
    findings: tuple[Finding, ...]
    tile_count: int
    review_reasons: tuple[ReviewReason, ...] = ()
    unassessable_reason: str = ""

    @property
    def review_required(self) -> bool:
        """True when a person must look before the call is used."""
        return bool(self.review_reasons)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Call:
        """Reads what `to_json` wrote."""
        return cls(
            outcome=Outcome(data["outcome"]),
            findings=tuple(
                Finding(f["label"], f["probability"], f["tile_count"], tuple(Evidence(**e) for e in f["evidence"]))
                for f in data["findings"]
            ),
            tile_count=data["tile_count"],
            review_reasons=tuple(ReviewReason(r) for r in data["review_reasons"]),
            unassessable_reason=data["unassessable_reason"],
        )
