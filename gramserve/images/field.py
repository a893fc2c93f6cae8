"""A field in memory: its pixels, perhaps at a reduced scale, and the size that places in it are counted in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gramserve.images.tiles import Box

Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of `width` x `height` pixels; `pixels` is uint8 RGB [H, W, 3] at 1/`reduction` of that, rounded up."""

    pixels: Pixels
    width: int
    height: int
    reduction: int = 1

    @classmethod
    def whole(cls, pixels: Pixels) -> Field:
        """A field at its full scale, uint8 RGB [height, width, 3]."""
        return cls(pixels, pixels.shape[1], pixels.shape[0])

    def cut(self, box: Box) -> Pixels:
        """The pixels of `box`, which is in pixels of the full size: exact at full scale.

        At a reduced scale it is a square for a square and as near as whole pixels can be: at most half a reduced pixel
        away, and half of one larger or smaller.
        """
        rows, columns = self.pixels.shape[:2]
        width, height = self._reduced(box.width), self._reduced(box.height)
        x, y = min(self._reduced(box.x), columns - width), min(self._reduced(box.y), rows - height)
        return self.pixels[y : y + height, x : x + width]

    def _reduced(self, length: int) -> int:
        """`length` in reduced pixels, rounded to the nearest."""
        return (length + self.reduction // 2) // self.reduction
