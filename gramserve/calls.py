"""What is reported for a slide: the call, its findings and the tiles that show them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Outcome(StrEnum):
    """The outcome of the slide as a whole: one code for a laboratory system."""

    ORGANISMS_SEEN = "ORGANISMS_SEEN"
    MIXED_ORGANISMS_SEEN = "MIXED_ORGANISMS_SEEN"
    NO_ORGANISM_SEEN = "NO_ORGANISM_SEEN"
    UNASSESSABLE = "UNASSESSABLE"


class UnassessableReason(StrEnum):
    """Why no call could be made."""

    TOO_FEW_TILES = "TOO_FEW_TILES"
    OUT_OF_FOCUS = "OUT_OF_FOCUS"
    BLANK = "BLANK"
    WRONG_MAGNIFICATION = "WRONG_MAGNIFICATION"


class ReviewReason(StrEnum):
    """Why a person must look before the call is used; see docs/slide_call.md."""

    LOW_CONFIDENCE = "LOW_CONFIDENCE"
    CONFLICTING_FINDINGS = "CONFLICTING_FINDINGS"
    MIXED_GROWTH = "MIXED_GROWTH"
    OUT_OF_DISTRIBUTION = "OUT_OF_DISTRIBUTION"
    PARTLY_ASSESSABLE = "PARTLY_ASSESSABLE"
    UNASSESSABLE = "UNASSESSABLE"


class Quantity(StrEnum):
    """How much of an organism there is, as a microscopist says it; NONE is what a class without a finding has."""

    NONE = "NONE"
    RARE = "RARE"
    FEW = "FEW"
    MODERATE = "MODERATE"
    MANY = "MANY"


BANDS = tuple(f"0.{tenth}" for tenth in range(10))
"""Names of the bands of a tile's probability: "0.9" holds 0.9 to 1."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One tile that supports a finding: pixels of its image at full resolution; probability 0 to 1."""

    image_index: int
    x: int
    y: int
    width: int
    height: int
    probability: float

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict, by the names of the fields."""
        return {
            "image_index": self.image_index,
            "x": self.x,
            "y": self.y,
            "width": self.width,
            "height": self.height,
            "probability": self.probability,
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """One organism class seen on the slide; `probability` (0 to 1) that it is present; best tiles first.

    `quantity` is None where the slide is too small, or the artifact has no bands, to say it. `gram`, `morphology` and
    `arrangement` are the class's roles in the artifact ("" where it has none), for coding without its label.
    """

    label: str
    probability: float
    tile_count: int
    evidence: tuple[Evidence, ...]
    quantity: Quantity | None = None
    gram: str = ""
    morphology: str = ""
    arrangement: str = ""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict without what is empty or not known; `from_json` reads it back."""
        data: dict[str, Any] = {
            "label": self.label,
            "probability": self.probability,
            "tile_count": self.tile_count,
            "evidence": [tile.to_json() for tile in self.evidence],
        }
        if self.quantity is not None:
            data["quantity"] = self.quantity.value
        for role in ("gram", "morphology", "arrangement"):
            if value := getattr(self, role):
                data[role] = value
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finding:
        """Reads what `to_json` wrote, now or before quantities were told."""
        quantity = data.get("quantity")
        return cls(
            label=data["label"],
            probability=data["probability"],
            tile_count=data["tile_count"],
            evidence=tuple(Evidence(**tile) for tile in data["evidence"]),
            quantity=Quantity(quantity) if quantity else None,
            gram=data.get("gram", ""),
            morphology=data.get("morphology", ""),
            arrangement=data.get("arrangement", ""),
        )


@dataclass(frozen=True, slots=True)
class Call:
    """The call of one slide; findings most probable first; `tile_count` tiles were read.

    `suspected` are classes that were seen on too few tiles to be findings and are a reason for a person to look. Of all
    tiles `blank_tiles` show nothing, `unfocused_tiles` are out of focus and `misscaled_tiles` are at the wrong
    magnification; the others were assessed.
    """

    outcome: Outcome
    findings: tuple[Finding, ...]
    tile_count: int
    review_reasons: tuple[ReviewReason, ...] = ()
    unassessable_reason: UnassessableReason | None = None
    suspected: tuple[Finding, ...] = ()
    blank_tiles: int = 0
    unfocused_tiles: int = 0
    misscaled_tiles: int = 0

    @property
    def review_required(self) -> bool:
        """True when a person must look before the call is used."""
        return bool(self.review_reasons)

    @property
    def assessed_tiles(self) -> int:
        """Tiles that were fit to read: evidence comes from these, and shares of tiles are of these."""
        return self.tile_count - self.blank_tiles - self.unfocused_tiles - self.misscaled_tiles

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict without what is empty or not known; `from_json` reads it back."""
        data: dict[str, Any] = {
            "outcome": self.outcome.value,
            "findings": [finding.to_json() for finding in self.findings],
            "tile_count": self.tile_count,
            "review_reasons": [reason.value for reason in self.review_reasons],
            "unassessable_reason": self.unassessable_reason.value if self.unassessable_reason else "",
        }
        if self.suspected:
            data["suspected"] = [finding.to_json() for finding in self.suspected]
        for unfit in ("blank_tiles", "unfocused_tiles", "misscaled_tiles"):
            if count := getattr(self, unfit):
                data[unfit] = count
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Call:
        """Reads what `to_json` wrote, now or in earlier versions; KeyError or ValueError for what is no call."""
        reason = data["unassessable_reason"]
        return cls(
            outcome=Outcome(data["outcome"]),
            findings=tuple(Finding.from_json(finding) for finding in data["findings"]),
            tile_count=data["tile_count"],
            review_reasons=tuple(ReviewReason(r) for r in data["review_reasons"]),
            unassessable_reason=UnassessableReason(reason) if reason else None,
            suspected=tuple(Finding.from_json(finding) for finding in data.get("suspected", ())),
            blank_tiles=data.get("blank_tiles", 0),
            unfocused_tiles=data.get("unfocused_tiles", 0),
            misscaled_tiles=data.get("misscaled_tiles", 0),
        )
