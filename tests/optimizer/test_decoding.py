"""Whether JPEG fields may be decoded at a reduced scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from gramserve.runtime.look import distance_of
from gramserve.runtime.quality import blank_and_unfocused, measure_quality
from gramserve.samples import write_image_folder
from gramserve.store.manifest import Label
from optimizer_svc.dataset import load_tiles, preprocessing_for
from optimizer_svc.decoding import MIN_TILES, DecodeCheck, check_decoding, reductions
from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.optimize import run_optimization
from optimizer_svc.spec import OptimizationSpec, Stopped
from optimizer_svc.splits import Splits, read_splits
from tests.optimizer.conftest import ARCHITECTURE
from tests.optimizer.conftest import LABELS as ROLES

LABELS = (Label(name="A", kind="background"), Label(name="B", kind="organism"))
EDGE = 64


def folder(data: Path, extensions: Sequence[str]) -> Splits:
    """A val split with one tile of each label for every extension: dark and bright."""
    for split in ("train", "val"):
        for target, label in enumerate(LABELS):
            for number, extension in enumerate(extensions):
                pixels = np.full((EDGE, EDGE, 3), 60 + 120 * target, np.uint8)
                pixels[0, 0] = number + (split == "val") * 100
                path = data / split / label.name / f"{number}.{extension}"
                path.parent.mkdir(parents=True, exist_ok=True)
                assert cv2.imwrite(str(path), pixels, [cv2.IMWRITE_JPEG_QUALITY, 98])
    return read_splits(data, LABELS)


def brightness(tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bright tiles are B."""
    mean = tiles.reshape(len(tiles), -1).mean(axis=1)
    return np.stack([120 - mean, mean - 120], axis=1).astype(np.float32)


def check(splits: Splits, input_px: int, answer) -> DecodeCheck:
    contract = preprocessing_for(splits.train, LABELS, input_px)
    logits = answer(load_tiles(splits.val, LABELS, contract).tiles)
    return check_decoding(splits.val, LABELS, contract, logits, answer)


def test_the_largest_reduction_that_changes_no_class_is_allowed(tmp_path: Path) -> None:
    found = check(folder(tmp_path, ["jpg"] * MIN_TILES), 16, brightness)
    assert (found.reduction, found.changed, found.tiles) == (4, 0, 2 * MIN_TILES)
    assert "1/4" in found.note


def test_a_reduction_that_changes_a_class_is_not_allowed(tmp_path: Path) -> None:
    splits = folder(tmp_path, ["jpg"] * MIN_TILES)
    contract = preprocessing_for(splits.train, LABELS, 16)
    logits = brightness(load_tiles(splits.val, LABELS, contract).tiles)
    logits[3] = -logits[3]  # as if this tile were another one in full
    found = check_decoding(splits.val, LABELS, contract, logits, brightness)
    assert (found.reduction, found.changed, found.tiles) == (1, 1, 2 * MIN_TILES)
    assert "1 of 40 JPEG val tiles" in found.note


def test_where_the_largest_reduction_changes_a_class_a_smaller_one_may_not(tmp_path: Path) -> None:
    splits = folder(tmp_path, ["jpg"] * MIN_TILES)
    contract = preprocessing_for(splits.train, LABELS, 16)
    logits = brightness(load_tiles(splits.val, LABELS, contract).tiles)
    answers = [-logits, logits]
    found = check_decoding(splits.val, LABELS, contract, logits, lambda tiles: answers.pop(0))
    assert (found.reduction, found.changed) == (2, 2 * MIN_TILES)


def test_too_few_jpeg_tiles_prove_nothing(tmp_path: Path) -> None:
    found = check(folder(tmp_path, ["png"] * MIN_TILES), 16, brightness)
    assert (found.reduction, found.tiles) == (1, 0)
    assert "0 of 40 val tiles are JPEG" in found.note


def test_only_jpeg_tiles_are_compared(tmp_path: Path) -> None:
    found = check(folder(tmp_path, [*["jpg"] * MIN_TILES, "png"]), 16, brightness)
    assert (found.reduction, found.tiles) == (4, 2 * MIN_TILES)


def test_tiles_that_are_no_larger_than_the_input_gain_nothing(tmp_path: Path) -> None:
    splits = folder(tmp_path, ["jpg"])
    contract = preprocessing_for(splits.train, LABELS, EDGE)
    assert reductions(contract) == ()
    assert check(splits, EDGE, brightness).reduction == 1
    assert reductions(contract.model_copy(update={"input_px": 21})) == (2,)
    assert reductions(contract.model_copy(update={"input_px": 8})) == (8, 4, 2)


def test_a_check_can_be_stopped(tmp_path: Path) -> None:
    splits = folder(tmp_path, ["jpg"] * MIN_TILES)
    contract = preprocessing_for(splits.train, LABELS, 16)
    logits = brightness(load_tiles(splits.val, LABELS, contract).tiles)
    with pytest.raises(Stopped):
        check_decoding(splits.val, LABELS, contract, logits, brightness, should_stop=lambda: True)


@pytest.mark.slow
def test_rules_for_slides_are_set_on_tiles_as_they_are_served(
    finetuned: FinetuneResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = DecodeCheck(4, 0, 60, "The classes that this poor network gives may change.")
    monkeypatch.setattr("optimizer_svc.optimize.check_decoding", lambda *_given, **_more: found)
    data = tmp_path / "tiles"
    write_image_folder(data, {"train": 24, "val": 12}, tile_px=150, image_format="jpg")
    spec = OptimizationSpec(
        checkpoint=finetuned.output,
        architecture=ARCHITECTURE,
        labels=ROLES,
        data=data,
        model="m",
        margin=1.0,
        recall_margin=1.0,
        allow_unproved=True,
        prune_macs=1.0,
        recipes=("int8_channel_core",),
        engines=("onnxruntime",),
    )
    manifest = run_optimization(spec, tmp_path / "workspace", lambda _progress: None).manifest
    contract, rules = manifest.preprocessing, manifest.aggregation
    assert contract.decode_reduction == 4
    served = measure_quality(load_tiles(read_splits(data, ROLES).val, ROLES, contract).tiles)
    assert rules.quality is not None
    assert rules.familiarity is not None
    assert rules.familiarity.look is not None
    # So few tiles that none of those that set a rule is turned away by it.
    assert not np.any(blank_and_unfocused(served, rules.quality))
    assert distance_of(served, rules.familiarity.look).max() == pytest.approx(rules.familiarity.look.max_distance)
