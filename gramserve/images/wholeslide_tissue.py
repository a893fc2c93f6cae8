"""Bare glass or not: which tiles of a whole slide show nothing, judged from few pixels and in doubt with "something".

A missed organism is worse than a tile read for nothing. So a tile is left out only where not one pixel of an overview,
a few microns wide, differs visibly from clear glass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gramserve.images.wholeslide import Reader
    from gramserve.images.wholeslide_grid import Grid

_LEVELS: Final = 10  # of 256, in any channel: more is not the colour of glass
_FLAT: Final = 20  # a tile in which no channel varies more could be glass
_BRIGHT: Final = 180  # glass is bright
_GRAY: Final = 24  # and without colour
_STRIP_PX: Final = 4_000_000

Cells = NDArray[np.uint8]
"""Least and greatest value of each channel, uint8 [..., 2, 3]."""


@dataclass(frozen=True, slots=True)
class Glass:
    """The colour of clear glass on one slide, RGB."""

    colour: tuple[int, int, int]

    @classmethod
    def of(cls, cells: Cells) -> Glass | None:
        """The glass that shows in `cells`; None where none does, and then nothing is left out."""
        every = cells.reshape(-1, 2, 3).astype(np.int16)
        least, greatest = every[:, 0], every[:, 1]
        flat = ((greatest - least) <= _FLAT).all(axis=1)
        clear = (least.min(axis=1) >= _BRIGHT) & (greatest.max(axis=1) - least.min(axis=1) <= _GRAY)
        white = (least == 255).all(axis=1)
        found = greatest[flat & clear & ~white]
        if not len(found):
            return cls((255, 255, 255)) if white.any() else None
        red, green, blue = (int(value) for value in np.median((found + least[flat & clear & ~white]) // 2, axis=0))
        return cls((red, green, blue))

    def bare(self, cells: Cells) -> NDArray[np.bool_]:
        """Which cells show nothing but glass, or the pure white of what was not scanned: bool [...]."""
        colour = np.array(self.colour, np.int16)
        glass = (np.abs(cells.astype(np.int16) - colour) <= _LEVELS).all(axis=(-2, -1))
        return np.asarray(glass | (cells[..., 0, :] == 255).all(axis=-1))

    def is_bare(self, shrunk: NDArray[np.uint8]) -> bool:
        """Whether one tile, shrunk to a few pixels, shows nothing but glass."""
        return bool(self.bare(_extremes(shrunk)))


def sample_glass(tiles: Iterable[NDArray[np.uint8]]) -> Glass | None:
    """The glass that shows in a few tiles, each shrunk to a few pixels."""
    return Glass.of(np.stack([_extremes(tile) for tile in tiles]))


def measure_cells(reader: Reader, level: int, downsample: float, grid: Grid) -> Cells:
    """The extremes of every tile of `grid` on `level`: uint8 [rows, columns, 2, 3]; read in strips of bounded size."""
    width, height = reader.sizes[level]
    rows, columns = np.arange(grid.rows), np.arange(grid.columns)
    tops, bottoms = _span(rows, grid.edge, grid.height, downsample, height)
    lefts, rights = _span(columns, grid.edge, grid.width, downsample, width)
    # Pairs of bounds; what lies between two pairs is computed, too, and left out.
    bounds = np.stack([lefts, rights], axis=1).ravel()
    cells = np.empty((grid.rows, grid.columns, 2, 3), np.uint8)
    strip_rows = max(1, int(_STRIP_PX // (width * max(1.0, grid.edge / downsample))))
    for first in range(0, grid.rows, strip_rows):
        last = min(first + strip_rows, grid.rows) - 1
        top = int(tops[first])
        strip = reader.read(level, 0, top, width, int(bottoms[last]) - top)
        for row in range(first, last + 1):
            band = strip[int(tops[row]) - top : int(bottoms[row]) - top]
            # One more column, so that the last bound lies inside.
            least = np.append(band.min(axis=0), np.full((1, 3), 255, np.uint8), axis=0)
            greatest = np.append(band.max(axis=0), np.zeros((1, 3), np.uint8), axis=0)
            cells[row, :, 0] = np.minimum.reduceat(least, bounds, axis=0)[::2]
            cells[row, :, 1] = np.maximum.reduceat(greatest, bounds, axis=0)[::2]
    return cells


def _span(
    numbers: NDArray[np.int_], edge: int, length: int, downsample: float, limit: int
) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """First and last + 1 pixel of a level that tiles in these rows or columns touch."""
    starts = np.minimum(numbers * edge, length - edge)
    first = np.clip(np.floor(starts / downsample).astype(int), 0, limit - 1)
    last = np.clip(np.ceil((starts + edge) / downsample).astype(int), first + 1, limit)
    return first, last


def _extremes(pixels: NDArray[np.uint8]) -> Cells:
    flat = pixels.reshape(-1, 3)
    return np.stack([flat.min(axis=0), flat.max(axis=0)])
