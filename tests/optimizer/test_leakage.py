from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gramserve.errors import InvalidInput, Reason
from gramserve.samples import LABELS as NAMES
from gramserve.samples import Sample as Synthetic
from optimizer_svc.leakage import Held, near_copies, prints, without_near_copies
from optimizer_svc.splits import Sample, Split, Splits, select
from optimizer_svc.tiles import TileSet
from tests.optimizer.conftest import LABELS

PX, EACH = 96, 12
Tiles = NDArray[np.uint8]


@pytest.fixture(scope="module")
def tiles() -> Tiles:
    """Fields with organisms and debris, and blank ones: 12 of each label."""
    return np.stack([Synthetic(name, seed, 3 * PX, 3 * PX).render() for name in NAMES for seed in range(EACH)])


def shrunk(tiles: Tiles) -> Tiles:
    return np.stack([cv2.resize(tile, (PX, PX), interpolation=cv2.INTER_AREA) for tile in tiles])


def recompressed(tile: Tiles) -> Tiles:
    data = cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def smaller(tile: Tiles) -> Tiles:
    return np.asarray(cv2.resize(tile, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA), np.uint8)


def brighter(tile: Tiles) -> Tiles:
    return np.clip(tile * 1.1 + 6.0, 0, 255).astype(np.uint8)


def turned(tile: Tiles) -> Tiles:
    return np.ascontiguousarray(np.rot90(tile))


def mirrored(tile: Tiles) -> Tiles:
    return recompressed(np.ascontiguousarray(tile[:, ::-1]))


def copies_found(tiles: Tiles, others: Tiles) -> set[tuple[int, int]]:
    return {(int(i), int(j)) for i, j in zip(*near_copies(prints(tiles), prints(others)), strict=True)}


@pytest.mark.parametrize("change", [recompressed, smaller, brighter, turned, mirrored])
def test_a_copy_in_other_bytes_is_found_and_nothing_else_is(tiles: Tiles, change) -> None:
    changed = np.stack([change(tile) for tile in tiles])
    found = copies_found(shrunk(changed), shrunk(tiles))
    assert {i for i, j in found if i == j} >= set(range(EACH, len(tiles)))  # every tile that shows an organism
    assert all(i == j for i, j in found)


@pytest.mark.parametrize("px", [32, 64, 224])
def test_different_tiles_are_no_copies_however_small_and_alike(px: int) -> None:
    tiles = np.stack([Synthetic(name, seed, px, px).render() for name in NAMES for seed in range(24)])
    assert all(i == j for i, j in copies_found(tiles, tiles))


def test_blank_fields_of_one_slide_are_no_copies() -> None:
    random = np.random.default_rng(0)
    shade = np.linspace(-12, 12, PX)[:, None, None] + np.array([180.0, 170, 200])
    blank = np.clip(shade + random.normal(0, 2, (40, PX, PX, 3)), 0, 255).astype(np.uint8)
    assert all(i == j for i, j in copies_found(blank, blank))
    uniform = np.full((5, PX, PX, 3), 200, np.uint8)
    assert copies_found(uniform, uniform) == set()


def held(**splits: tuple[list[int], Tiles]) -> Held:
    """Splits by name: the targets and tiles of each."""
    made, loaded = {}, {}
    for name, (targets, pixels) in splits.items():
        samples = tuple(Sample(Path("x"), t, "g", f"{name}{i:03}") for i, t in enumerate(targets))
        made[name] = select(Split(name, samples, ""), np.ones(len(targets), bool), LABELS)
        loaded[name] = TileSet(pixels.copy(), np.array(targets, np.int64))
    notes = ("There is no groups.csv.",)
    return Held(
        Splits(made["train"], made["val"], made.get("test"), notes), loaded["train"], loaded["val"], loaded.get("test")
    )


TARGETS = [*range(5), *range(5)]


def test_a_near_copy_leaves_train_and_the_report_says_so(tiles: Tiles) -> None:
    small, jpeg = shrunk(tiles), shrunk(np.stack([recompressed(tile) for tile in tiles]))
    train = small[[12, 13, 24, 36, 48, 14, 15, 25, 37, 49]]
    before = held(train=(TARGETS, train), val=(TARGETS, np.concatenate([jpeg[[15]], small[16:24], small[[26]]])))
    fingerprint = before.splits.train.fingerprint
    after = without_near_copies(before, LABELS)
    assert np.array_equal(after.train.tiles, train[[0, 1, 2, 3, 4, 5, 7, 8, 9]])
    assert after.train.targets.tolist() == [0, 1, 2, 3, 4, 0, 2, 3, 4]
    assert [s.sha256 for s in after.splits.train.samples] == [f"train{i:03}" for i in range(10) if i != 6]
    assert after.splits.train.fingerprint != fingerprint
    note = "1 tile of train is a near copy of a tile of val and was left out. It has another label there:"
    assert after.splits.notes == ("There is no groups.csv.", f"{note} check the labels.")
    assert len(after.val) == 10


def test_a_near_copy_of_a_test_tile_leaves_val_and_train(tiles: Tiles) -> None:
    small, jpeg = shrunk(tiles), shrunk(np.stack([recompressed(tile) for tile in tiles]))
    test, val, train = small[12:22], jpeg[30:40].copy(), small[48:58].copy()
    val[6], train[7], train[8] = jpeg[12], jpeg[13], small[33]
    after = without_near_copies(held(train=(TARGETS, train), val=(TARGETS, val), test=(TARGETS, test)), LABELS)
    assert (len(after.train), len(after.val)) == (8, 9)
    assert after.test is not None
    assert len(after.test) == len(after.splits.test.samples if after.splits.test else ()) == 10
    assert len(after.splits.val.samples) == 9
    assert [note[:40] for note in after.splits.notes[1:]] == [
        "1 tile of val is a near copy of a tile o",
        "2 tiles of train are near copies of tile",
    ]


def test_without_near_copies_everything_stays_as_it_is(tiles: Tiles) -> None:
    small = shrunk(tiles)
    before = held(train=(TARGETS, small[12:22]), val=(TARGETS, small[30:40]))
    after = without_near_copies(before, LABELS)
    assert after.splits == before.splits
    assert after.train is before.train


def test_a_class_that_has_only_near_copies_is_refused_by_name(tiles: Tiles) -> None:
    small = shrunk(tiles)
    train, val = small[12:17], np.concatenate([small[[13]], small[20:24]])
    with pytest.raises(InvalidInput, match="train has no tile of the classes GNR") as caught:
        without_near_copies(held(train=(TARGETS[:5], train), val=([1, 0, 2, 3, 4], val)), LABELS)
    assert caught.value.reason == Reason.EMPTY_CLASS
