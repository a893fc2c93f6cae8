"""Which tiles of a slide are wanted as pictures: what is said to the child that cuts them."""

from __future__ import annotations

from dataclasses import dataclass

from gramserve.store.codec import Record
from gramserve.store.records import ImageRecord

MAX_PIXELS = 64_000_000
"""Largest image that is decoded, width x height."""


@dataclass(frozen=True, slots=True)
class Tile(Record):
    """A tile: pixels at full resolution of the slide's image `image_index` (from 0)."""

    image_index: int
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Cut(Record):
    """The tiles that are wanted of one slide."""

    laboratory: str
    images: tuple[ImageRecord, ...]
    tiles: tuple[Tile, ...]
