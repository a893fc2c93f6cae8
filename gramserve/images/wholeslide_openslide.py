"""Whole slides through OpenSlide: SVS, NDPI, pyramidal TIFF, DICOM and what else it opens.

Only levels are ever read. Label and macro images can show who the patient is: nothing here asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cv2
import numpy as np
import openslide

from gramserve.errors import Reason, SlideFailed
from gramserve.images.field import Pixels
from gramserve.images.ome import ome_mpp
from gramserve.images.wholeslide import refuse_unreadable

GENERIC: Final = "generic-tiff"
_CACHE_BYTES: Final = 48 * 2**20


def vendor_of(path: str) -> str | None:
    """The format as OpenSlide names it, "generic-tiff" for any tiled TIFF; None when it knows none."""
    try:
        return openslide.OpenSlide.detect_format(path)
    except openslide.OpenSlideError:
        return None


class OpenSlideReader:
    """A `Reader` over OpenSlide with a bounded cache of decoded tiles."""

    def __init__(self, path: str) -> None:
        """Raises SlideFailed (SLIDE_UNREADABLE)."""
        try:
            self._slide = openslide.OpenSlide(path)
        except openslide.OpenSlideError:
            # What OpenSlide says can name files.
            raise refuse_unreadable("cannot be opened: it is damaged, or of a kind that is not read") from None
        self._slide.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
        # Largest first and all of one shape; a level that is none is left out.
        self._sizes = tuple(self._slide.level_dimensions)
        self._downsamples = tuple(self._slide.level_downsamples)
        properties = self._slide.properties
        self._mpp = ome_mpp(properties.get("tiff.ImageDescription", "")) or _mean_mpp(
            properties.get(openslide.PROPERTY_NAME_MPP_X, ""), properties.get(openslide.PROPERTY_NAME_MPP_Y, "")
        )

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Width and height of each level."""
        return self._sizes

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of level 0, where the file says so."""
        return self._mpp

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """uint8 RGB [height, width, 3] from `x`, `y` in pixels of the level; white where the slide has no pixels."""
        by = self._downsamples[level]
        try:
            image = self._slide.read_region((round(x * by), round(y * by)), level, (width, height))
        except openslide.OpenSlideError:
            raise refuse_unreadable("has a region that cannot be read; scan or copy it again") from None
        except MemoryError:
            message = "There was not enough memory to read the whole slide."
            raise SlideFailed(Reason.OUT_OF_MEMORY, message, retryable=True) from None
        rgba = np.asarray(image)
        rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
        alpha = rgba[:, :, 3]
        if int(alpha.min()) < 255:
            rgb[alpha == 0] = 255
        return rgb

    def close(self) -> None:
        """Close the slide."""
        self._slide.close()


def _mean_mpp(x: str, y: str) -> float | None:
    try:
        return (float(x) + float(y)) / 2
    except ValueError:
        return None
