"""Where the tiles of a field lie: one in its middle or a grid over all of it, as the artifact's contract says."""

from __future__ import annotations

from dataclasses import dataclass

from gramserve.store.manifest import Preprocessing


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in pixels of its field: left edge, top edge, width, height."""

    x: int
    y: int
    width: int
    height: int


def tile_boxes(width: int, height: int, preprocessing: Preprocessing) -> list[Box]:
    """The square tiles of a field of `width` x `height` pixels, row by row from the top left.

    "single", or a field of a "grid" contract whose sides are both at most `max_single_px`: the largest square in the
    middle. "grid": squares of `tile_px` that cover the whole field; the last column and row are shifted back to end
    at its edge and so overlap their neighbours. A field narrower than a tile gets tiles as large as it is narrow.
    """
    if preprocessing.tiling == "single" or max(width, height) <= preprocessing.max_single_px:
        edge = min(width, height)
        return [Box((width - edge) // 2, (height - edge) // 2, edge, edge)]
    edge = min(preprocessing.tile_px, width, height)
    return [Box(x, y, edge, edge) for y in _starts(height, edge) for x in _starts(width, edge)]


def _starts(length: int, edge: int) -> list[int]:
    """The fewest starts of `edge`-long pieces that cover `length`, the last one shifted back to end at it."""
    return [min(start, length - edge) for start in range(0, length, edge)]
