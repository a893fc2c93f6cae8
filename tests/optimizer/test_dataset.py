from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from gramserve.errors import InvalidInput, Reason
from gramserve.runtime.preprocess import tile_batches
from gramserve.store.manifest import Label
from optimizer_svc.dataset import load_tiles, preprocessing_for, read_tile
from optimizer_svc.spec import Stopped
from optimizer_svc.splits import Splits, read_splits

LABELS = (Label(name="A", kind="background"), Label(name="B", kind="organism"))


def write(path: Path, width: int, height: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    assert cv2.imwrite(str(path), picture)


def folder(data: Path, sizes: list[tuple[int, int]]) -> Splits:
    for i, (width, height) in enumerate(sizes):
        for split in ("train", "val"):
            for label in LABELS:
                write(
                    data / split / label.name / f"{i}.png",
                    width,
                    height,
                    zlib.crc32(f"{split}{label.name}{i}".encode()),
                )
    return read_splits(data, LABELS)


def test_tiles_of_one_size_make_a_grid_contract(tmp_path: Path) -> None:
    splits = folder(tmp_path, [(100, 100), (101, 99), (100, 100)])
    contract = preprocessing_for(splits.train, LABELS, 48)
    assert (contract.tiling, contract.tile_px, contract.max_single_px) == ("grid", 100, 150)
    assert contract.input_px == 48
    assert contract.min_px == 24


def test_tiles_of_many_sizes_make_each_image_a_single_tile(tmp_path: Path) -> None:
    splits = folder(tmp_path, [(100, 100), (160, 90), (60, 64)])
    assert preprocessing_for(splits.train, LABELS, 48).tiling == "single"


def test_a_loaded_tile_is_exactly_what_the_worker_would_read(tmp_path: Path) -> None:
    splits = folder(tmp_path, [(100, 101), (100, 100)])
    contract = preprocessing_for(splits.train, LABELS, 48)
    tiles = load_tiles(splits.val, LABELS, contract)
    assert tiles.tiles.shape == (4, 48, 48, 3)
    assert tiles.targets.tolist() == [0, 0, 1, 1]
    for sample, tile in zip(splits.val.samples, tiles.tiles, strict=True):
        field = cv2.cvtColor(cv2.imread(str(sample.path)), cv2.COLOR_BGR2RGB)
        (batch,) = tile_batches([np.asarray(field, np.uint8)], contract, 8)
        assert np.array_equal(batch.tiles[0], tile)


@pytest.mark.parametrize(
    ("content", "cause"), [(b"", "EMPTY_IMAGE"), (b"patient list", "UNSUPPORTED_FORMAT"), (None, "CORRUPT_IMAGE")]
)
def test_an_image_that_cannot_be_read_is_named_by_its_place_and_not_by_its_name(
    tmp_path: Path, content: bytes | None, cause: str
) -> None:
    splits = folder(tmp_path, [(100, 100), (100, 100)])
    contract = preprocessing_for(splits.train, LABELS, 48)
    bad = splits.val.samples[3].path
    bad.write_bytes(bad.read_bytes()[:200] if content is None else content)
    with pytest.raises(InvalidInput) as caught:
        load_tiles(splits.val, LABELS, contract)
    assert caught.value.reason == Reason.INVALID_DATASET
    assert caught.value.metadata == {"split": "val", "label": "B", "image": "2", "cause": cause}
    assert bad.name not in caught.value.message


def test_an_unreadable_training_image_is_found_before_anything_else(tmp_path: Path) -> None:
    splits = folder(tmp_path, [(100, 100), (100, 100)])
    splits.train.samples[0].path.write_bytes(b"text")
    with pytest.raises(InvalidInput) as caught:
        preprocessing_for(splits.train, LABELS, 48)
    assert caught.value.reason == Reason.INVALID_DATASET


def test_a_labelled_image_that_the_worker_would_cut_up_is_refused(tmp_path: Path) -> None:
    splits = folder(tmp_path, [(100, 100), (100, 100)])
    contract = preprocessing_for(splits.train, LABELS, 48)
    write(splits.val.samples[0].path, 400, 400, 1)
    with pytest.raises(InvalidInput, match=r"1\.5 times as large"):
        load_tiles(splits.val, LABELS, contract)


def test_loading_stops_when_asked(tmp_path: Path) -> None:
    splits = folder(tmp_path, [(100, 100)])
    contract = preprocessing_for(splits.train, LABELS, 48)
    with pytest.raises(Stopped):
        load_tiles(splits.val, LABELS, contract, should_stop=lambda: True)


def test_one_tile_has_the_model_input_shape(tmp_path: Path) -> None:
    splits = folder(tmp_path, [(100, 100)])
    contract = preprocessing_for(splits.train, LABELS, 48)
    tile = read_tile(splits.train.samples[0].path, contract)
    assert tile.shape == (48, 48, 3)
    assert tile.dtype == np.uint8
