"""Where tiles lie."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gramserve.images.tiles import Box, tile_boxes
from gramserve.store.manifest import Preprocessing


def contract(tiling: str = "grid", tile_px: int = 160, max_single_px: int = 200) -> Preprocessing:
    return Preprocessing(input_px=96, tiling=tiling, tile_px=tile_px, max_single_px=max_single_px, min_px=32)


def test_a_single_tile_is_the_largest_square_in_the_middle():
    assert tile_boxes(500, 300, contract("single")) == [Box(100, 0, 300, 300)]
    assert tile_boxes(301, 500, contract("single")) == [Box(0, 99, 301, 301)]


def test_a_small_field_of_a_grid_contract_is_one_tile():
    assert tile_boxes(200, 180, contract()) == [Box(10, 0, 180, 180)]
    assert len(tile_boxes(201, 180, contract())) == 4


def test_the_last_row_and_column_are_shifted_back_to_the_edge():
    boxes = tile_boxes(400, 320, contract())
    assert [(b.x, b.y) for b in boxes] == [(0, 0), (160, 0), (240, 0), (0, 160), (160, 160), (240, 160)]


def test_a_field_narrower_than_a_tile_gets_smaller_tiles():
    assert tile_boxes(250, 100, contract()) == [Box(0, 0, 100, 100), Box(100, 0, 100, 100), Box(150, 0, 100, 100)]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(8, 200), st.integers(0, 300))
def test_a_grid_covers_every_pixel_with_square_tiles_inside_the_field(width, height, tile_px, max_single_px):
    covered = np.zeros((height, width), bool)
    boxes = tile_boxes(width, height, contract("grid", tile_px, max_single_px))
    for box in boxes:
        assert box.width == box.height
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= width
        assert box.y + box.height <= height
        covered[box.y : box.y + box.height, box.x : box.x + box.width] = True
    assert len(set(boxes)) == len(boxes)
    assert covered.all() or max(width, height) <= max_single_px
