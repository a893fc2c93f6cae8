"""The tiles of a whole slide: a grid over all of it, the cells worth reading, and its division into parts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import Reason, SlideFailed
from gramserve.images.tiles import Box
from gramserve.images.wholeslide_tissue import Glass

MAX_CELLS: Final = 2_000_000
_SAMPLED: Final = 8  # rows and columns of a sample of the grid


@dataclass(frozen=True, slots=True)
class Grid:
    """Squares of `edge` pixels that cover `width` x `height`; the last row and column end at the edge of the slide."""

    width: int
    height: int
    edge: int

    @classmethod
    def over(cls, width: int, height: int, edge: int) -> Grid:
        """Raises SlideFailed (IMAGE_TOO_LARGE) where more than two million tiles would be needed."""
        grid = cls(width, height, edge)
        if grid.rows * grid.columns > MAX_CELLS:
            raise SlideFailed(
                Reason.IMAGE_TOO_LARGE,
                f"The whole slide has {width} x {height} pixels, more than {MAX_CELLS} tiles; scan a smaller area.",
            )
        return grid

    @property
    def rows(self) -> int:
        """Rows of tiles."""
        return -(-self.height // self.edge)

    @property
    def columns(self) -> int:
        """Columns of tiles."""
        return -(-self.width // self.edge)

    def box(self, row: int, column: int) -> Box:
        """Where a tile lies."""
        x, y = min(column * self.edge, self.width - self.edge), min(row * self.edge, self.height - self.edge)
        return Box(x, y, self.edge, self.edge)

    def sample(self) -> Iterator[tuple[int, int]]:
        """Row and column of at most 64 tiles, evenly over the slide."""
        for row in np.unique(np.linspace(0, self.rows - 1, _SAMPLED, dtype=int)):
            for column in np.unique(np.linspace(0, self.columns - 1, _SAMPLED, dtype=int)):
                yield int(row), int(column)


@dataclass(frozen=True, slots=True)
class Plan:
    """The tiles of a slide that are read: `kept`, bool [rows, columns]; `glass`: tiles like it are left out then."""

    grid: Grid
    kept: NDArray[np.bool_]
    glass: Glass | None

    @property
    def tiles(self) -> int:
        """How many tiles are read."""
        return int(self.kept.sum())

    def blocks(self, cells: int, shard: tuple[int, int]) -> Iterator[list[tuple[int, int]]]:
        """Rows and columns of kept tiles in squares of `cells` x `cells`, from the top left, that part `shard` has.

        Parts (i, n) have whole blocks and about as many tiles each; together and in order they are the whole.
        """
        rows, columns = np.nonzero(self.kept)
        across = -(-self.grid.columns // cells)
        block = (rows // cells) * across + columns // cells
        order = np.argsort(block, kind="stable")
        _, firsts = np.unique(block[order], return_index=True)
        bounds = np.append(firsts, len(order))
        part, parts = shard
        # A block belongs to the part in which it begins.
        start, end = np.searchsorted(firsts, [-(-len(order) * part // parts), -(-len(order) * (part + 1) // parts)])
        for number in range(int(start), int(end)):
            chosen = order[bounds[number] : bounds[number + 1]]
            yield [(int(row), int(column)) for row, column in zip(rows[chosen], columns[chosen], strict=True)]

    def to_bytes(self) -> bytes:
        """`from_bytes` reads it back."""
        grid, glass = self.grid, self.glass
        colour = (-1, -1, -1) if glass is None else glass.colour
        head = np.array([grid.width, grid.height, grid.edge, *colour], ">i4").tobytes()
        return head + np.packbits(self.kept).tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Reads what `to_bytes` wrote."""
        width, height, edge, *colour = (int(value) for value in np.frombuffer(data[:24], ">i4"))
        grid = Grid(width, height, edge)
        bits = np.unpackbits(np.frombuffer(data[24:], np.uint8), count=grid.rows * grid.columns)
        red, green, blue = colour
        glass = Glass((red, green, blue)) if red >= 0 else None
        return cls(grid, bits.reshape(grid.rows, grid.columns).astype(np.bool_), glass)
