"""Fields to tiles, exactly as the contract says."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gramserve.errors import Reason, SlideFailed
from gramserve.images.limits import ImageLimits
from gramserve.images.tiles import tile_boxes
from gramserve.runtime.preprocess import Place, read_field, resize_into, tile_batches
from gramserve.store.manifest import Preprocessing

LIMITS = ImageLimits()


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


# Fields that are decoded at a reduced scale.


def jpeg(pixels: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(pixels[:, :, ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 98])
    assert done
    return data.tobytes()


def smooth(width: int, height: int) -> np.ndarray:
    coarse = np.random.default_rng(3).integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize("size", [(260, 150), (131, 129), (257, 64)], ids=str)
@pytest.mark.parametrize("reduction", [2, 4])
def test_tiles_of_a_reduced_field_show_what_the_full_one_shows_in_the_same_places(size, reduction):
    rules = contract(input_px=16)
    data = jpeg(smooth(*size))
    (full,) = tile_batches([read_field(data, LIMITS, rules)], rules, 100)
    reduced = read_field(data, LIMITS, rules.model_copy(update={"decode_reduction": reduction}))
    assert reduced.reduction == reduction
    (small,) = tile_batches([reduced], rules, 100)
    assert small.places == full.places
    assert np.abs(small.tiles.astype(int) - full.tiles).mean() < 8


def test_a_field_is_never_reduced_so_far_that_its_tiles_must_be_enlarged():
    data = jpeg(smooth(260, 150))
    for input_px, expected in ((8, 8), (9, 4), (16, 4), (17, 2), (32, 2), (33, 1)):
        rules = contract(input_px=input_px, decode_reduction=8)
        assert read_field(data, LIMITS, rules).reduction == expected
    narrow = contract(input_px=16, decode_reduction=4)
    assert read_field(jpeg(smooth(60, 40)), LIMITS, narrow).reduction == 2


def test_what_is_no_jpeg_and_a_contract_without_reduction_are_read_in_full():
    pixels = smooth(200, 130)
    png = cv2.imencode(".png", np.ascontiguousarray(pixels[:, :, ::-1]))[1].tobytes()
    read = read_field(png, LIMITS, contract(decode_reduction=8, input_px=8))
    assert read.reduction == 1
    assert np.array_equal(read.pixels, pixels)
    assert read_field(jpeg(pixels), LIMITS, contract(input_px=8)).reduction == 1


def test_the_least_size_is_that_of_the_field_and_not_of_its_reduced_picture():
    rules = contract(input_px=8, min_px=40, decode_reduction=8)
    assert len(list(tile_batches([read_field(jpeg(smooth(64, 40)), LIMITS, rules)], rules, 4))) == 1


def test_no_fields_are_no_batches():
    assert not list(tile_batches([], contract(), 4))


def test_a_field_under_the_models_least_size_is_too_small():
    with pytest.raises(SlideFailed) as failed:
        list(tile_batches([field(64, 15)], contract(), 4))
    assert failed.value.reason is Reason.IMAGE_TOO_SMALL
