from __future__ import annotations

import base64
import json
from pathlib import Path

import cv2
import numpy as np

from optimizer_svc.exhibits import MAX_PICTURES, PICTURE_PX, errors, pictures
from optimizer_svc.splits import Sample, Split
from tests.optimizer.conftest import LABELS

BACKGROUND, GNR, CLUSTERS, CHAINS, GPR = range(5)
TARGETS = [GNR, GNR, CLUSTERS, CLUSTERS, GPR, BACKGROUND, CHAINS]
BEFORE = [BACKGROUND, GNR, CLUSTERS, CHAINS, GPR, BACKGROUND, GNR]
AFTER = [BACKGROUND, GPR, CHAINS, CHAINS, GPR, GNR, BACKGROUND]
SPLIT = Split("val", tuple(Sample(Path("secret.png"), t, "g", f"{i}" * 64) for i, t in enumerate(TARGETS)), "")


def logits(called: list[int]) -> np.ndarray:
    return np.stack([np.eye(5, dtype=np.float32)[call] * (2 + i / 10) for i, call in enumerate(called)])


def test_the_worst_errors_come_first_and_those_of_the_checkpoint_are_told_apart() -> None:
    rows = errors(logits(BEFORE), logits(AFTER), 1.0, SPLIT, LABELS)
    assert [(row["place"], row["severity"], row["new"]) for row in rows] == [
        (1, "Gram flip", True),
        (6, "missed organism", False),
        (0, "missed organism", False),
        (5, "other", True),
        (2, "other", True),
        (3, "other", False),
    ]


def test_a_row_says_what_both_called_it_with_which_probability_and_names_no_file() -> None:
    (row, *_) = rows = errors(logits(BEFORE), logits(AFTER), 2.0, SPLIT, LABELS)
    assert row["true"] == "GNR"
    assert row["tile"] == "111111111111"
    assert row["checkpoint"]["label"] == "GNR"
    assert row["artifact"]["label"] == "GPR"
    assert row["artifact"]["probability"] < row["checkpoint"]["probability"]
    assert "secret" not in json.dumps(rows)


def test_without_an_artifact_the_errors_are_those_of_the_checkpoint() -> None:
    rows = errors(logits(BEFORE), None, 1.0, SPLIT, LABELS)
    assert [(row["place"], row["artifact"], row["new"]) for row in rows] == [
        (6, None, False),
        (0, None, False),
        (3, None, False),
    ]


def test_pictures_are_small_jpegs_of_the_tiles_and_hold_nothing_else() -> None:
    tiles = np.random.default_rng(0).integers(0, 255, (3, 224, 224, 3), np.uint8) // 4 + np.uint8(128)
    tiles[2] = (200, 90, 130)
    made = pictures([{"place": 2}, {"place": 0}], tiles)
    assert set(made) == {0, 2}
    data = base64.b64decode(made[2].removeprefix("data:image/jpeg;base64,"))
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    assert picture.shape == (PICTURE_PX, PICTURE_PX, 3)
    assert np.abs(picture.astype(int) - (200, 90, 130)).max() < 6
    assert b"Exif" not in data


def test_a_poor_network_does_not_make_an_endless_page() -> None:
    tiles = np.zeros((MAX_PICTURES + 50, 8, 8, 3), np.uint8)
    assert len(pictures([{"place": i} for i in range(len(tiles))], tiles)) == MAX_PICTURES
