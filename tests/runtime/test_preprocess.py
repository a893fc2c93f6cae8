"""Fields to tiles, exactly as the contract says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gramserve.errors import Reason, SlideFailed
from gramserve.images.tiles import tile_boxes
from gramserve.runtime.preprocess import Place, resize_into, tile_batches
from gramserve.store.manifest import Preprocessing


def contract(**changes) -> Preprocessing:
    return Preprocessing(
        **{"input_px": 32, "tiling": "grid", "tile_px": 64, "max_single_px": 64, "min_px": 16, **changes}
    )


def field(width: int, height: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_tiles_are_the_boxes_of_each_field_in_order_shrunk_by_area():
    fields = [field(200, 130), field(64, 50, 1)]
    batches = list(tile_batches(fields, contract(), batch_tiles=100))
    expected = [Place(i, box) for i, f in enumerate(fields) for box in tile_boxes(f.shape[1], f.shape[0], contract())]
    assert [place for batch in batches for place in batch.places] == expected
    for place, tile in zip(batches[0].places, batches[0].tiles, strict=True):
        box = place.box
        cut = fields[place.image_index][box.y : box.y + box.height, box.x : box.x + box.width]
        assert np.array_equal(tile, cv2.resize(cut, (32, 32), interpolation=cv2.INTER_AREA))


@pytest.mark.parametrize("batch_tiles", [1, 5, 12, 13, 24, 100])
def test_chunks_change_no_tile_whatever_their_size(batch_tiles):
    fields = [field(200, 130, seed) for seed in range(2)]
    batches = list(tile_batches(fields, contract(), batch_tiles))
    together = np.concatenate([batch.tiles for batch in batches])
    whole = next(tile_batches(fields, contract(), 1000)).tiles
    assert np.array_equal(together, whole)
    assert [len(batch.places) for batch in batches[:-1]] == [batch_tiles] * (len(batches) - 1)


def test_a_batch_that_was_handed_out_is_never_written_again():
    batches = tile_batches([field(200, 130)], contract(), batch_tiles=4)
    first = next(batches)
    before = first.tiles.copy()
    list(batches)
    assert np.array_equal(first.tiles, before)


def test_fields_are_taken_one_after_the_other():
    taken = []

    def fields():
        for number in range(3):
            taken.append(number)
            yield field(64, 64, number)

    batches = tile_batches(fields(), contract(), batch_tiles=1)
    next(batches)
    assert taken == [0]


def test_a_tile_of_the_right_size_is_copied_and_a_smaller_one_is_enlarged_linearly():
    source = field(32, 32)
    target = np.zeros((32, 32, 3), np.uint8)
    resize_into(target, source)
    assert np.array_equal(target, source)
    small = field(20, 20)
    resize_into(target, small)
    assert np.array_equal(target, cv2.resize(small, (32, 32), interpolation=cv2.INTER_LINEAR))


def test_no_fields_are_no_batches():
    assert not list(tile_batches([], contract(), 4))


def test_a_field_under_the_models_least_size_is_too_small():
    with pytest.raises(SlideFailed) as failed:
        list(tile_batches([field(64, 15)], contract(), 4))
    assert failed.value.reason is Reason.IMAGE_TOO_SMALL
