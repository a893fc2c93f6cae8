"""What a study is asked to compare, and the part of it that one architecture is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import Label
from optimizer_svc.architecture import check_architecture
from optimizer_svc.spec import INPUT_PX


@dataclass(frozen=True, slots=True)
class Task:
    """The study of one architecture, as its process reads it; paths are absolute, `keep_macs` None: not pruned."""

    architecture: str
    data: Path
    labels: tuple[Label, ...]
    weights: Path | None
    checkpoint: Path | None
    keep_macs: float | None
    epochs: int | None
    distill_epochs: int
    input_px: int | None
    budget_minutes: float
    seed: int

    def to_json(self) -> bytes:
        """For `from_json`."""
        labels = [label.model_dump(mode="json") for label in self.labels]
        paths = {name: path and str(path) for name, path in asdict(self).items() if isinstance(path, Path)}
        return json.dumps({**asdict(self), **paths, "labels": labels}).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Task:
        """What `to_json` wrote."""
        values = json.loads(data)
        for name in ("data", "weights", "checkpoint"):
            values[name] = None if values[name] is None else Path(values[name])
        values["labels"] = tuple(Label.model_validate(label) for label in values["labels"])
        return cls(**values)


@dataclass(frozen=True, slots=True)
class StudySpec:
    """One study: timm `architectures` on the ImageFolder `data`, everything kept in the folder `output`.

    Of each architecture there is a checkpoint: the one in `checkpoints` (architecture to file), or one that is
    fine-tuned here from `weights` (architecture to file), else from random weights, for `epochs` (None: as `finetune`
    does by itself). `keep_macs` is the share of multiply-accumulates that the pruned network keeps (None: no pruning),
    `distill_epochs` the most epochs of its recovery; recovery and measuring of one architecture take about
    `budget_minutes`, fine-tuning not counted.
    """

    data: Path
    architectures: tuple[str, ...]
    output: Path
    labels: tuple[Label, ...]
    weights: Mapping[str, Path] = field(default_factory=dict)
    checkpoints: Mapping[str, Path] = field(default_factory=dict)
    keep_macs: float | None = 0.5
    epochs: int | None = None
    distill_epochs: int = 30
    input_px: int | None = None
    budget_minutes: float = 20.0
    seed: int = 0

    def check(self) -> None:
        """Raises InvalidInput (UNKNOWN_ARCHITECTURE, INVALID_FIELD) for what could never work, before anything runs."""
        for architecture in self.architectures:
            check_architecture(architecture)
        files = {**self.weights, **self.checkpoints}
        names = [_base(architecture) for architecture in self.architectures]
        wrong = [
            (name, f"must {rule}")
            for name, rule, holds in (
                ("arch", "name at least one architecture", bool(names)),
                ("arch", "name each architecture once", len(set(names)) == len(names)),
                ("weights", "be of an architecture of the study", set(self.weights) <= set(self.architectures)),
                ("checkpoint", "be of an architecture of the study", set(self.checkpoints) <= set(self.architectures)),
                ("checkpoint", "not be given beside weights", not set(self.checkpoints) & set(self.weights)),
                ("weights", "be files that exist", all(path.is_file() for path in files.values())),
                ("keep_macs", "be above 0 and below 1", self.keep_macs is None or 0 < self.keep_macs < 1),
                ("epochs", "be 0 or more", self.epochs is None or self.epochs >= 0),
                ("distill_epochs", "be 1 or more", self.distill_epochs >= 1),
                ("input_px", "be 16 to 2048", self.input_px is None or self.input_px in INPUT_PX),
                ("budget_minutes", "be above 0", self.budget_minutes > 0),
                ("seed", "be 0 or more", self.seed >= 0),
            )
            if not holds
        ]
        if wrong:
            text = "; ".join(f"{name} {rule}" for name, rule in wrong)
            raise InvalidInput(Reason.INVALID_FIELD, text, violations=wrong)

    def task(self, architecture: str) -> Task:
        """The part of it that `architecture` is."""
        weights, checkpoint = self.weights.get(architecture), self.checkpoints.get(architecture)
        return Task(
            architecture=architecture,
            data=self.data.absolute(),
            labels=self.labels,
            weights=weights and weights.absolute(),
            checkpoint=checkpoint and checkpoint.absolute(),
            keep_macs=self.keep_macs,
            epochs=self.epochs,
            distill_epochs=self.distill_epochs,
            input_px=self.input_px,
            budget_minutes=self.budget_minutes,
            seed=self.seed,
        )

    def folder(self, architecture: str) -> Path:
        """Where everything of `architecture` lies."""
        return self.output / _base(architecture)

    def settings(self) -> dict[str, Any]:
        """What was asked for, JSON-ready, without paths."""
        return {
            "keep_macs": self.keep_macs,
            "epochs": self.epochs,
            "distill_epochs": self.distill_epochs,
            "input_px": self.input_px,
            "budget_minutes": self.budget_minutes,
            "seed": self.seed,
        }


def _base(architecture: str) -> str:
    return architecture.split(".", 1)[0]
