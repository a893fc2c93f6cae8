"""Synthetic tiles and checkpoints for whole optimizations where there are no real ones."""

from __future__ import annotations

from pathlib import Path

from gramserve.samples import LABELS, write_image_folder, write_labels_yaml
from optimizer_svc.finetune import finetune
from optimizer_svc.labels import read_labels

TILE_PX = 224
TILES = {"train": 60, "val": 20}  # of each of five classes: 400


def data(folder: Path) -> Path:
    """An ImageFolder of 400 tiles with its labels.yaml."""
    write_image_folder(folder, TILES, tile_px=TILE_PX)
    write_labels_yaml(folder / "labels.yaml")
    return folder


def tiles() -> int:
    """How many tiles that are."""
    return len(LABELS) * sum(TILES.values())


def checkpoint(folder: Path, into: Path, architecture: str, *, weights: Path | None, epochs: int, px: int) -> Path:
    """A checkpoint of `architecture` that has seen the tiles for a few epochs."""
    path = into / f"{architecture}.safetensors"
    finetune(
        folder,
        architecture=architecture,
        output=path,
        labels=read_labels(folder / "labels.yaml"),
        weights=weights,
        epochs_unfrozen=epochs,
        input_px=px,
    )
    return path
