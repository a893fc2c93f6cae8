"""Tiles of a split, decoded and resized by the very code that serves."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import InvalidInput, Reason, SlideFailed
from gramserve.images.decode import read_header
from gramserve.images.limits import ImageLimits
from gramserve.runtime.preprocess import read_field, tile_batches
from gramserve.store.manifest import Label, Preprocessing
from optimizer_svc.spec import Stopped
from optimizer_svc.splits import Sample, Split
from optimizer_svc.tiles import TileSet

LIMITS = ImageLimits(min_px=8)
# Tiles whose edges differ by more than this from their median were not cut to one scale.
SAME_SCALE = 0.1
SINGLE_FACTOR = 1.5
CHUNK = 64


def preprocessing_for(split: Split, labels: Sequence[Label], input_px: int) -> Preprocessing:
    """The preprocessing contract that the tiles of the training `split` imply.

    Tiles of one size say how many pixels of a field belong to a tile: larger fields are cut into a "grid" of such
    tiles, and fields up to 1.5 times that size are one tile. Tiles of varying size say nothing about a scale: each
    image is then a "single" tile. Raises InvalidInput INVALID_DATASET for an image that cannot be read.
    """
    edges: list[int] = []
    for number, sample in enumerate(split.samples):
        try:
            header = read_header(sample.path.read_bytes(), LIMITS)
        except SlideFailed as error:
            raise _unreadable(split, labels, number, error) from None
        edges += [header.width, header.height]
    tile_px = round(median(edges))
    one_scale = all(abs(edge - tile_px) <= SAME_SCALE * tile_px for edge in edges)
    return Preprocessing(
        input_px=input_px,
        tiling="grid" if one_scale else "single",
        tile_px=tile_px,
        max_single_px=round(SINGLE_FACTOR * tile_px),
        # A field of less than a quarter of a tile would be little more than enlarged noise.
        min_px=max(LIMITS.min_px, min(tile_px, *edges) // 4),
    )


def load_tiles(
    split: Split,
    labels: Sequence[Label],
    preprocessing: Preprocessing,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> TileSet:
    """Every tile of `split` as model input, in the split's order; InvalidInput INVALID_DATASET, Stopped."""
    edge = preprocessing.input_px
    tiles = np.empty((len(split.samples), edge, edge, 3), np.uint8)
    # Decoders run outside the interpreter lock, so threads do use every core.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for start in range(0, len(tiles), CHUNK):
            if should_stop():
                raise Stopped
            part = split.samples[start : start + CHUNK]
            for i, tile in enumerate(pool.map(lambda sample: _tile(sample, preprocessing), part), start):
                if isinstance(tile, SlideFailed):
                    raise _unreadable(split, labels, i, tile)
                tiles[i] = tile
    return TileSet(tiles, np.array([sample.target for sample in split.samples], np.int64))


def read_tile(path: Path, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """One labelled image as model input, uint8 [S, S, 3]: the single tile that the worker would make of it.

    Raises SlideFailed for what cannot be read, and for an image that the worker would cut into several tiles: one label
    cannot stand for all of them.
    """
    field = read_field(path.read_bytes(), LIMITS, preprocessing)
    batches = list(tile_batches([field], preprocessing, 1))
    if len(batches) != 1:
        raise SlideFailed(Reason.IMAGE_TOO_LARGE, "it is more than 1.5 times as large as the tiles of train")
    tile: NDArray[np.uint8] = batches[0].tiles[0]
    return tile


def _tile(sample: Sample, preprocessing: Preprocessing) -> NDArray[np.uint8] | SlideFailed:
    try:
        return read_tile(sample.path, preprocessing)
    except SlideFailed as error:
        return error


def _unreadable(split: Split, labels: Sequence[Label], number: int, error: SlideFailed) -> InvalidInput:
    """Says which image by its place in name order: file names may hold patient data."""
    target = split.samples[number].target
    place = 1 + sum(sample.target == target for sample in split.samples[:number])
    return InvalidInput(
        Reason.INVALID_DATASET,
        f"image {place} (in name order) of {split.name}/{labels[target].name} cannot be used: {error.message}",
        metadata={"split": split.name, "label": labels[target].name, "image": str(place), "cause": error.reason},
    )
