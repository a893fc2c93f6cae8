"""The first stage: checkpoint and data, read and checked before any work is done on them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gramserve.store.manifest import Preprocessing
from optimizer_svc.checkpoint import Checkpoint, load_checkpoint
from optimizer_svc.dataset import load_tiles, preprocessing_for
from optimizer_svc.environment import packages
from optimizer_svc.leakage import Held, without_near_copies
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.splits import Split, Splits, read_splits
from optimizer_svc.tiles import TileSet

# Raised when a stage computes something else from the same input, so that old results are not found again.
STAGES_VERSION = 2


@dataclass(frozen=True, slots=True)
class Ingested:
    """What the later stages work with; `identity` is everything their results depend on, JSON-ready."""

    checkpoint: Checkpoint
    splits: Splits
    preprocessing: Preprocessing
    train: TileSet
    val: TileSet
    test: TileSet | None
    identity: dict[str, Any]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the report should know about the inputs, as sentences."""
        return (*self.checkpoint.notes, *self.splits.notes)


def ingest(spec: OptimizationSpec, *, should_stop: Callable[[], bool] = lambda: False) -> Ingested:
    """Reads the checkpoint first, because that is quick, then the data; InvalidInput, Stopped."""
    checkpoint = load_checkpoint(
        spec.checkpoint, spec.architecture, spec.labels, input_px=spec.input_px, mean=spec.mean, std=spec.std
    )
    splits = read_splits(spec.data, spec.labels, seed=spec.seed)
    preprocessing = preprocessing_for(splits.train, spec.labels, checkpoint.input.px)

    def load(split: Split) -> TileSet:
        return load_tiles(split, spec.labels, preprocessing, should_stop=should_stop)

    test = load(splits.test) if splits.test else None
    held = without_near_copies(Held(splits, load(splits.train), load(splits.val), test), spec.labels)
    splits = held.splits
    identity = {
        "stages": STAGES_VERSION,
        "packages": packages(),
        "checkpoint": checkpoint.sha256,
        "architecture": spec.architecture,
        "labels": [label.model_dump(mode="json") for label in spec.labels],
        "input": [checkpoint.input.px, checkpoint.input.mean, checkpoint.input.std],
        "preprocessing": preprocessing.model_dump(mode="json"),
        "train": splits.train.fingerprint,
        "val": splits.val.fingerprint,
        "order": _order(splits),
        "seed": spec.seed,
    }
    return Ingested(checkpoint, splits, preprocessing, held.train, held.val, held.test, identity)


def _order(splits: Splits) -> str:
    """Which tile stands where: answers that are kept have a row for each, and names alone decide their order."""
    digests = (sample.sha256 for split in (splits.train, splits.val) for sample in split.samples)
    return hashlib.sha256("".join(digests).encode()).hexdigest()
