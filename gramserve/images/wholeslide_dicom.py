"""DICOM whole slides that OpenSlide refuses, such as JPEG-LS and gray ones, through pydicom: one frame at a time."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from gramserve.errors import SlideFailed
from gramserve.images.dicom import Instance
from gramserve.images.dicom_frames import Frames
from gramserve.images.field import Pixels
from gramserve.images.wholeslide import refuse_unreadable

_CACHE_BYTES: Final = 48 * 2**20


class DicomReader:
    """A `Reader` over the VOLUME instances of one series, with a bounded cache of decoded frames."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        """Raises SlideFailed: UNSUPPORTED_PIXEL_FORMAT, SLIDE_UNREADABLE."""
        self._cache: OrderedDict[tuple[int, int], Pixels] = OrderedDict()
        self._cached = 0
        levels = sorted(instances, key=lambda instance: -instance.columns)
        try:
            self._frames = [self._open(level) for level in levels]
            self._places = [_places(level, frames) for level, frames in zip(levels, self._frames, strict=True)]
            self._mpp = _mpp(levels[0].header)
        except SlideFailed:
            raise
        except Exception:  # pydicom raises whatever a damaged element makes it stumble over
            raise refuse_unreadable("has a header that does not make sense") from None
        self._sizes = tuple((level.columns, level.rows) for level in levels)

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Width and height of each level."""
        return self._sizes

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of level 0, where the file says so."""
        return self._mpp

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """uint8 RGB [height, width, 3] from `x`, `y` in pixels of the level; white where there is no frame."""
        pixels = np.full((height, width, 3), 255, np.uint8)
        frames, places = self._frames[level], self._places[level]
        for row in range(y // frames.height, -(-(y + height) // frames.height)):
            for column in range(x // frames.width, -(-(x + width) // frames.width)):
                number = places.get((column, row))
                if number is None:
                    continue
                left, top = column * frames.width, row * frames.height
                x0, y0 = max(x, left), max(y, top)
                x1, y1 = min(x + width, left + frames.width), min(y + height, top + frames.height)
                frame = self._frame(level, number)
                pixels[y0 - y : y1 - y, x0 - x : x1 - x] = frame[y0 - top : y1 - top, x0 - left : x1 - left]
        return pixels

    def close(self) -> None:
        """Forget what was decoded; whoever opened the files closes them."""
        self._cache.clear()

    @staticmethod
    def _open(instance: Instance) -> Frames:
        with Path(instance.file.path).open("rb") as file:
            # Read once more for the place where it stops: the element with the pixels.
            pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SOPInstanceUID"])
            return Frames(instance, file.tell())

    def _frame(self, level: int, number: int) -> Pixels:
        frame = self._cache.get((level, number))
        if frame is None:
            frame = self._cache[level, number] = self._frames[level].decode(number)
            self._cached += frame.nbytes
            while self._cached > _CACHE_BYTES and len(self._cache) > 1:
                self._cached -= self._cache.popitem(last=False)[1].nbytes
        else:
            self._cache.move_to_end((level, number))
        return frame


def _places(instance: Instance, frames: Frames) -> dict[tuple[int, int], int]:
    """The number of the frame in each column and row of frames."""
    header = instance.header
    if int(header.get("TotalPixelMatrixFocalPlanes", 1)) > 1 or int(header.get("NumberOfOpticalPaths", 1)) > 1:
        raise refuse_unreadable("has several focal planes or optical paths")
    if "ConcatenationUID" in header:
        raise refuse_unreadable("is cut into concatenated instances")
    columns = -(-instance.columns // frames.width)
    if header.get("DimensionOrganizationType") == "TILED_FULL" or "PerFrameFunctionalGroupsSequence" not in header:
        return {(number % columns, number // columns): number for number in range(frames.count)}
    places = {}
    for number, group in enumerate(header.PerFrameFunctionalGroupsSequence):
        position = group.PlanePositionSlideSequence[0]
        column, x = divmod(int(position.ColumnPositionInTotalImagePixelMatrix) - 1, frames.width)
        row, y = divmod(int(position.RowPositionInTotalImagePixelMatrix) - 1, frames.height)
        if x or y:
            raise refuse_unreadable("has frames that do not lie on a grid")
        places[column, row] = number
    return places


def _mpp(header: Dataset) -> float | None:
    """Pixel spacing is in millimetres."""
    with contextlib.suppress(AttributeError, IndexError, KeyError):
        spacing = header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
        return 1000 * (float(spacing[0]) + float(spacing[1])) / 2
    return None
