"""Fields to model input, exactly as the artifact's contract says; what the optimizer evaluates is what serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from gramserve.errors import Reason, SlideFailed
from gramserve.images.decode import Reduction, decode_field
from gramserve.images.field import Field
from gramserve.images.limits import ImageLimits
from gramserve.images.tiles import Box, tile_boxes
from gramserve.images.wholeslide import WholeSlide
from gramserve.images.wholeslide_grid import Plan
from gramserve.store.manifest import Preprocessing

Picture: TypeAlias = Field | WholeSlide


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tile was cut: `image_index` of the slide's images (from 0) and its box in pixels of that image."""

    image_index: int
    box: Box


@dataclass(frozen=True, slots=True)
class TileBatch:
    """Model input, uint8 RGB [N, input_px, input_px, 3], and where each of the N tiles was cut."""

    tiles: NDArray[np.uint8]
    places: tuple[Place, ...]


def read_field(data: bytes, limits: ImageLimits, preprocessing: Preprocessing) -> Field:
    """An encoded image as the contract wants it decoded; raises SlideFailed, as `gramserve.images.decode` does.

    A JPEG is decoded at a reduced scale where the contract says so, but never so small that its tiles would have to be
    enlarged again.
    """

    def choose(width: int, height: int) -> Reduction:
        reduction = preprocessing.decode_reduction
        edge = tile_boxes(width, height, preprocessing)[0].width
        steps: tuple[Reduction, ...] = (8, 4, 2)
        return next((k for k in steps if k <= reduction and edge // k >= preprocessing.input_px), 1)

    return decode_field(data, limits, choose)


@dataclass(frozen=True, slots=True)
class SlidePart:
    """Part `index` of `count` of a whole slide that is read in parts, and the plan that all parts follow."""

    plan: Plan
    index: int
    count: int


def tile_batches(
    pictures: Iterable[Picture | NDArray[np.uint8]],
    preprocessing: Preprocessing,
    batch_tiles: int,
    *,
    part: SlidePart | None = None,
) -> Iterator[TileBatch]:
    """The tiles of all pictures in order, `batch_tiles` at a time; the last batch may be smaller.

    `pictures` come from `read_field`, are uint8 RGB [H, W, 3] at full scale, or whole slides, and are taken one after
    the other, so memory holds one field, or one block of a slide, and one batch. `part`: of a whole slide only this.
    Boxes are in pixels of the full size. Raises SlideFailed (IMAGE_TOO_SMALL) for a picture with a side under
    `preprocessing.min_px`, and what `WholeSlide.crops` raises.
    """
    edge = preprocessing.input_px
    tiles = np.empty((batch_tiles, edge, edge, 3), np.uint8)
    places: list[Place] = []
    first = 0
    for given in pictures:
        picture = Field.whole(given) if isinstance(given, np.ndarray) else given
        width, height = picture.width, picture.height
        if min(width, height) < preprocessing.min_px:
            raise SlideFailed(
                Reason.IMAGE_TOO_SMALL,
                f"The image has {width} x {height} pixels; this model needs {preprocessing.min_px} on each side.",
            )
        image_index = first + (picture.main if isinstance(picture, WholeSlide) else 0)
        for box, crop in _crops(picture, preprocessing, part):
            resize_into(tiles[len(places)], crop)
            places.append(Place(image_index, box))
            if len(places) == batch_tiles:
                yield TileBatch(tiles, tuple(places))
                tiles, places = np.empty_like(tiles), []
        first += picture.images if isinstance(picture, WholeSlide) else 1
    if places:
        yield TileBatch(tiles[: len(places)], tuple(places))


def _crops(
    picture: Picture, preprocessing: Preprocessing, part: SlidePart | None
) -> Iterator[tuple[Box, NDArray[np.uint8]]]:
    if isinstance(picture, WholeSlide):
        if part is None:
            yield from picture.crops(preprocessing)
        else:
            yield from picture.crops(preprocessing, part.plan, (part.index, part.count))
        return
    for box in tile_boxes(picture.width, picture.height, preprocessing):
        yield box, picture.cut(box)


def resize_into(target: NDArray[np.uint8], source: NDArray[np.uint8]) -> None:
    """Resizes `source` [h, w, 3] into `target` [H, W, 3]: INTER_AREA to shrink, INTER_LINEAR to enlarge."""
    if source.shape == target.shape:
        target[...] = source
        return
    method = cv2.INTER_AREA if target.shape[0] <= source.shape[0] else cv2.INTER_LINEAR
    cv2.resize(source, (target.shape[1], target.shape[0]), dst=target, interpolation=method)
