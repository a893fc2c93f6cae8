"""A whole slide: far too many pixels for memory, read tile by tile at the level that fits the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol, TypeAlias

import cv2
import numpy as np

from gramserve.errors import Reason, SlideFailed
from gramserve.images.field import Pixels
from gramserve.images.tiles import Box
from gramserve.images.wholeslide_grid import Grid, Plan
from gramserve.images.wholeslide_tissue import Glass, measure_cells, sample_glass
from gramserve.store.manifest import Preprocessing

Shard: TypeAlias = tuple[int, int]
"""Part i of n, from (0, n) to (n - 1, n); (0, 1) is all."""

# Edge of what is read at once where most of it is wanted, in pixels of the level and in tiles.
_BLOCK_PX: Final = 1024
_BLOCK_TILES: Final = 4
_STAINED_PX: Final = 12  # pixels of the overview along the edge of a tile, at least
_STAINED_UM: Final = 5.0  # and microns of such a pixel at most: a bacterium must still darken it
_CHEAPER: Final = 2.0  # the overview is as many times coarser than the level that is read, at least
# Scanners write 72 dpi when they know nothing: what no microscope does is not believed.
_MPP: Final = (0.02, 20.0)


class Reader(Protocol):
    """Reads the levels of one slide; level 0 is the largest."""

    @property
    def sizes(self) -> Sequence[tuple[int, int]]:
        """Width and height of each level in its own pixels."""
        ...

    @property
    def mpp(self) -> float | None:
        """Microns per pixel of level 0, where the file says so."""
        ...

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """uint8 RGB [height, width, 3] of a level, from `x` and `y` in pixels of that level; white where nothing is.

        Raises SlideFailed: SLIDE_UNREADABLE, OUT_OF_MEMORY.
        """
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class WholeSlide:
    """A slide of `width` x `height` pixels at level 0, in which all boxes are counted.

    It was given as `images` images of a slide, of which number `main` (from 0) holds level 0.
    """

    def __init__(
        self, reader: Reader, *, images: int = 1, main: int = 0, closed: Callable[[], object] = lambda: None
    ) -> None:
        """`closed` is called once `reader` was closed."""
        self._reader = reader
        self._closed = closed
        self.images = images
        self.main = main
        self.width, self.height = reader.sizes[0]
        mpp = reader.mpp
        self.mpp = mpp if mpp is not None and _MPP[0] <= mpp <= _MPP[1] else None
        self._planned: tuple[Preprocessing, Plan] | None = None
        self.downsamples = tuple(self.width / width for width, _ in reader.sizes)

    def edge(self, preprocessing: Preprocessing) -> int:
        """Edge of a tile in pixels of level 0: `tile_px` at the model's microns per pixel where both are known."""
        edge = preprocessing.tile_px
        if preprocessing.mpp is not None and self.mpp is not None:
            edge = max(1, round(edge * preprocessing.mpp / self.mpp))
        return min(edge, self.width, self.height)

    def plan(self, preprocessing: Preprocessing) -> Plan:
        """Which tiles are worth reading: all but those that show bare glass in an overview of bounded size.

        Where the slide has no level for an overview, all are, and each is judged once it was read.
        Raises SlideFailed: IMAGE_TOO_LARGE (too many tiles), SLIDE_UNREADABLE, OUT_OF_MEMORY.
        """
        if self._planned is None or self._planned[0] != preprocessing:
            self._planned = preprocessing, self._plan(preprocessing)
        return self._planned[1]

    def _plan(self, preprocessing: Preprocessing) -> Plan:
        edge = self.edge(preprocessing)
        grid = Grid.over(self.width, self.height, edge)
        level = self._overview(edge, self._level(edge, preprocessing.input_px))
        if level is None:
            return Plan(grid, np.ones((grid.rows, grid.columns), np.bool_), self._sample(grid, preprocessing))
        cells = measure_cells(self._reader, level, self.downsamples[level], grid)
        glass = Glass.of(cells)
        kept = ~glass.bare(cells) if glass is not None else np.ones((grid.rows, grid.columns), np.bool_)
        return Plan(grid, kept, None)

    def crops(
        self, preprocessing: Preprocessing, plan: Plan | None = None, shard: Shard = (0, 1)
    ) -> Iterator[tuple[Box, Pixels]]:
        """The tiles of a part of `plan`, block by block: their boxes, and their pixels at the level that fits.

        A tile has at least the model's `input_px` there, where the slide has so many. Memory holds one block and the
        reader's own bounded cache. The same box gives the same pixels in whichever part. Raises what `plan` raises.
        """
        plan = plan if plan is not None else self.plan(preprocessing)
        grid = plan.grid
        level = self._level(grid.edge, preprocessing.input_px)
        downsample = self.downsamples[level]
        size = max(1, round(grid.edge / downsample))
        cells = max(1, min(_BLOCK_TILES, _BLOCK_PX // size))
        for block in plan.blocks(cells, shard):
            boxes = [grid.box(row, column) for row, column in block]
            corners = [(round(box.x / downsample), round(box.y / downsample)) for box in boxes]
            left, top = min(x for x, _ in corners), min(y for _, y in corners)
            right, bottom = max(x for x, _ in corners) + size, max(y for _, y in corners) + size
            # Reading what is not wanted pays as long as it is less than what is.
            together = (right - left) * (bottom - top) <= 2 * len(boxes) * size * size
            pixels = self._reader.read(level, left, top, right - left, bottom - top) if together else None
            for box, (x, y) in zip(boxes, corners, strict=True):
                if pixels is not None:
                    crop = pixels[y - top : y - top + size, x - left : x - left + size]
                else:
                    crop = self._reader.read(level, x, y, size, size)
                if plan.glass is None or not plan.glass.is_bare(self._shrunk(crop, grid.edge)):
                    yield box, crop

    def region(self, box: Box, px: int) -> Pixels:
        """uint8 RGB [height, width, 3] of `box`, at the coarsest level on which its shorter edge has `px` pixels.

        Raises SlideFailed: SLIDE_UNREADABLE, OUT_OF_MEMORY.
        """
        level = self._level(min(box.width, box.height), px)
        x, y, width, height = (round(n / self.downsamples[level]) for n in (box.x, box.y, box.width, box.height))
        return self._reader.read(level, x, y, max(1, width), max(1, height))

    def close(self) -> None:
        """Close its files."""
        self._reader.close()
        self._closed()

    def _level(self, edge: int, input_px: int) -> int:
        """The coarsest level on which a tile has `input_px` pixels (one in a hundred may be missing)."""
        enough = [level for level, by in enumerate(self.downsamples) if edge / by >= 0.99 * input_px]
        return max(enough, key=lambda level: self.downsamples[level], default=0)

    def _overview(self, edge: int, read_level: int) -> int | None:
        """The coarsest level on which stain still shows; None where none is cheaper than reading the tiles."""
        finest = self.downsamples[read_level] * _CHEAPER
        shows = [
            level
            for level, by in enumerate(self.downsamples)
            if by >= finest * 0.99 and edge / by >= _STAINED_PX and by * (self.mpp or 0.0) <= _STAINED_UM
        ]
        return max(shows, key=lambda level: self.downsamples[level], default=None)

    def _sample(self, grid: Grid, preprocessing: Preprocessing) -> Glass | None:
        """What glass looks like, from a few tiles all over the slide."""
        level = self._level(grid.edge, preprocessing.input_px)
        downsample = self.downsamples[level]
        size = max(1, round(grid.edge / downsample))
        boxes = [grid.box(row, column) for row, column in grid.sample()]
        return sample_glass(
            self._shrunk(
                self._reader.read(level, round(b.x / downsample), round(b.y / downsample), size, size), grid.edge
            )
            for b in boxes
        )

    def _shrunk(self, crop: Pixels, edge: int) -> Pixels:
        """A tile of `edge` pixels of level 0 as an overview would show it: small stain still shows."""
        wanted = max(_STAINED_PX, math.ceil(edge * (self.mpp or 0.0) / _STAINED_UM))
        px = min(wanted, *crop.shape[:2])
        return np.asarray(cv2.resize(crop, (px, px), interpolation=cv2.INTER_AREA), np.uint8)


def refuse_unreadable(what: str) -> SlideFailed:
    """A slide that cannot be opened, or a region that cannot be read; `what` completes "The whole slide ..."."""
    return SlideFailed(Reason.SLIDE_UNREADABLE, f"The whole slide {what}.")
