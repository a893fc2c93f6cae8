"""What an optimization is asked to do, how far it is and what it gives back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import ArtifactDraft, Label

INPUT_PX = range(16, 2049)
IMPORTANCES = ("taylor", "magnitude")
SCOPES = ("uniform", "isomorphic")
TRIAL_STATES = ("TRIED", "DROPPED", "ACCEPTED", "REFUSED")


class Stage(StrEnum):
    """The stages of an optimization, in their order."""

    INGEST = "INGEST"
    BASELINE = "BASELINE"
    PRUNE = "PRUNE"
    EXPORT = "EXPORT"
    QUANTIZE = "QUANTIZE"
    MEASURE = "MEASURE"
    ACCEPT = "ACCEPT"
    CALIBRATE = "CALIBRATE"
    PACKAGE = "PACKAGE"


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One candidate as it is shown while the search goes on.

    `name` is unique within an optimization; a later row of that name replaces the earlier one. `images_per_s` on one
    core and `accuracy` (0 to 1, of the val split) are None until measured. `state` is one of TRIAL_STATES; `note` says
    why, as a sentence without paths or names of files, or is empty.
    """

    name: str
    network: str
    recipe: str
    engine: str
    images_per_s: float | None
    accuracy: float | None
    size_bytes: int
    state: str
    note: str


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an optimization is.

    `message` is one sentence for a person, without paths or names of files; `fraction` (0 to 1) is of the whole
    optimization and never falls; `elapsed_s` is the time of all runs, `remaining_s` what is left of the budget (never
    below 0). `trials` are the rows that are new or changed since the last Progress.
    """

    stage: Stage
    message: str
    fraction: float
    elapsed_s: float
    remaining_s: float
    trials: tuple[TrialRow, ...] = ()


class Stopped(Exception):
    """The caller asked to stop; what is finished is kept and the next run goes on from there."""


@dataclass(frozen=True, slots=True)
class OptimizationSpec:
    """One optimization.

    `checkpoint` is a local file (safetensors or a torch zip file) of the timm `architecture` whose outputs stand in
    the order of `labels`; `data` is an ImageFolder. `margin` and `recall_margin` are the non-inferiority margins of
    accuracy and of each class's recall, as fractions. `prune_macs` is the share of multiply-accumulates that pruning
    keeps (None: the search's own targets; 1.0: no pruning), by `importance` ("taylor" or "magnitude") within `scope`
    ("uniform" or "isomorphic"). `recipes` and `engines` are names; empty means all that suit and are installed.
    `input_px`, `mean` and `std` (RGB, of values 0 to 1) default to the checkpoint's own metadata, then to timm's.
    `review_risk` is the share of wrong calls that may pass without review; `quantization_aware` lets a candidate be
    trained with rounded weights where rounding afterwards costs accuracy. `min_assessed_tiles`: no slide with fewer
    tiles fit to read is called empty; `mixed_usual_in`: specimen types whose mixed growth needs no review.
    """

    checkpoint: Path
    architecture: str
    labels: tuple[Label, ...]
    data: Path
    model: str
    budget_minutes: float = 20.0
    margin: float = 0.01
    recall_margin: float = 0.05
    allow_unproved: bool = False
    prune_macs: float | None = None
    recipes: tuple[str, ...] = ()
    input_px: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    distill_epochs: int = 30
    importance: str = "taylor"
    scope: str = "uniform"
    engines: tuple[str, ...] = ()
    review_risk: float = 0.05
    quantization_aware: bool = True
    seed: int = 0
    min_assessed_tiles: int = 1
    mixed_usual_in: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises InvalidInput INVALID_FIELD, naming every setting that makes no sense."""
        wrong = [
            (name, f"must be {rule}")
            for name, rule, holds in (
                ("model", "a name", bool(self.model)),
                ("labels", "2 or more", len(self.labels) >= 2),
                ("budget_minutes", "above 0", self.budget_minutes > 0),
                ("margin", "above 0 and at most 1", 0 < self.margin <= 1),
                ("recall_margin", "above 0 and at most 1", 0 < self.recall_margin <= 1),
                ("prune_macs", "above 0 and at most 1", self.prune_macs is None or 0 < self.prune_macs <= 1),
                ("input_px", "16 to 2048", self.input_px is None or self.input_px in INPUT_PX),
                ("std", "above 0", self.std is None or min(self.std) > 0),
                ("distill_epochs", "0 or more", self.distill_epochs >= 0),
                ("importance", " or ".join(IMPORTANCES), self.importance in IMPORTANCES),
                ("scope", " or ".join(SCOPES), self.scope in SCOPES),
                ("review_risk", "above 0 and below 1", 0 < self.review_risk < 1),
                ("seed", "0 or more", self.seed >= 0),
                ("min_assessed_tiles", "1 or more", self.min_assessed_tiles >= 1),
            )
            if not holds
        ]
        if wrong:
            text = "; ".join(f"{name} {rule}" for name, rule in wrong)
            raise InvalidInput(Reason.INVALID_FIELD, text, violations=wrong)


@dataclass(frozen=True, slots=True)
class OptimizationResult:
    """An accepted artifact: its `files` by name (all but manifest.json), its manifest, headline and full report."""

    files: dict[str, bytes]
    manifest: ArtifactDraft
    summary: dict[str, Any]
    report: dict[str, Any]
