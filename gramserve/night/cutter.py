"""Cuts tiles out of slides; loaded only in the confined child, as it decodes what others made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import takewhile

import cv2
import numpy as np

from gramserve.errors import GramserveError
from gramserve.images.decode import Reduction, decode_field, use_one_thread
from gramserve.images.field import Field, Pixels
from gramserve.images.limits import ImageLimits
from gramserve.images.open import ReferenceOpener
from gramserve.images.slidefile import SlideFile, is_dicom
from gramserve.images.tiles import Box
from gramserve.images.wholeslide import WholeSlide
from gramserve.images.wholeslide_open import open_dicom, open_tiff
from gramserve.night.wanted import MAX_PIXELS, Cut, Tile
from gramserve.store.records import ImageRecord

TILE_PX = 128
JPEG_QUALITY = 80


class Cutter:
    """Cuts tiles as JPEG of at most 128 x 128 pixels, which hold pixels and nothing else of their files."""

    def __init__(self, opener: ReferenceOpener, max_bytes: int) -> None:
        self._opener = opener
        self._limits = ImageLimits(max_bytes=max_bytes, max_pixels=MAX_PIXELS)
        use_one_thread()

    def cut(self, wanted: Cut) -> list[bytes | None]:
        """The tiles in their order; None for each that cannot be shown."""
        found: list[bytes | None] = [None] * len(wanted.tiles)
        for index in sorted({tile.image_index for tile in wanted.tiles}):
            places = [place for place, tile in enumerate(wanted.tiles) if tile.image_index == index]
            try:
                pixels = list(self._of_image(wanted, index, [wanted.tiles[place] for place in places]))
            except (GramserveError, IndexError, ValueError, MemoryError, OSError):
                continue  # the page says that there is no picture
            for place, tile in zip(places, pixels, strict=True):
                found[place] = tile
        return found

    def _of_image(self, wanted: Cut, index: int, tiles: Sequence[Tile]) -> Iterator[bytes]:
        with ExitStack() as owned:
            picture = self._open(wanted, index, min(min(tile.width, tile.height) for tile in tiles), owned)
            for tile in tiles:
                box = _inside(Box(tile.x, tile.y, tile.width, tile.height), picture.width, picture.height)
                yield _jpeg(picture.cut(box) if isinstance(picture, Field) else picture.region(box, TILE_PX))

    def _open(self, wanted: Cut, index: int, edge: int, owned: ExitStack) -> Field | WholeSlide:
        found = self._opener.fetch(wanted.laboratory, wanted.images[index])
        if isinstance(found, SlideFile):
            owned.callback(found.close)
            if is_dicom(found.head()):
                return self._open_dicom(wanted, index, owned)
            if (slide := open_tiff(found, self._limits)) is not None:
                owned.callback(slide.close)
                return slide
            self._limits.check_bytes(found.size)
            found = found.read(self._limits.max_bytes)
        return decode_field(found, self._limits, lambda _width, _height: _reduction(edge))

    def _open_dicom(self, wanted: Cut, index: int, owned: ExitStack) -> WholeSlide:
        """The slide whose DICOM series the image `index` is of: the files of a series follow each other."""

        def dicom(image: ImageRecord) -> SlideFile | None:
            file = self._opener.fetch(wanted.laboratory, image)
            if isinstance(file, SlideFile):
                owned.callback(file.close)
                return file if is_dicom(file.head()) else None
            return None

        before = list(takewhile(bool, map(dicom, reversed(wanted.images[:index]))))
        behind = list(takewhile(bool, map(dicom, wanted.images[index:])))
        first = index - len(before)
        for slide in open_dicom([file for file in (*reversed(before), *behind) if file is not None]):
            owned.callback(slide.close)
            if first <= index < first + slide.images:
                return slide
            first += slide.images
        raise ValueError(index)


def _inside(box: Box, width: int, height: int) -> Box:
    """`box`; raises ValueError unless it lies in a picture of that size."""
    if min(box.x, box.y) < 0 or min(box.width, box.height) < 1:
        raise ValueError("no box")
    if box.x + box.width > width or box.y + box.height > height:
        raise ValueError("outside of the picture")
    return box


def _reduction(edge: int) -> Reduction:
    """At which of its scales a JPEG may be decoded, so that `edge` pixels still are as many as are shown."""
    scales: tuple[Reduction, ...] = (8, 4, 2)
    return next((by for by in scales if edge / by >= TILE_PX), 1)


def _jpeg(pixels: Pixels) -> bytes:
    rows, columns = pixels.shape[:2]
    if (longest := max(rows, columns)) > TILE_PX:
        size = (max(1, columns * TILE_PX // longest), max(1, rows * TILE_PX // longest))
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)
    bgr = np.ascontiguousarray(pixels[:, :, ::-1])
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    if not done:
        raise ValueError("no JPEG")
    return data.tobytes()
