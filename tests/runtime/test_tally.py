"""Counting what a model said of tiles, as the optimizer does it for val and a worker for its slides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gramserve.calls import BANDS
from gramserve.runtime.tally import REFERENCE, Reference, tally
from gramserve.store.manifest import Label

LABELS = (Label(name="A", kind="background"), Label(name="B", kind="organism"), Label(name="C", kind="organism"))


def test_every_tile_is_counted_once_by_its_best_label_and_once_by_its_band() -> None:
    chance = np.array([[0.95, 0.05, 0.0], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0], [0.34, 0.33, 0.33]])
    counts = tally(chance, LABELS)
    assert counts.labels == {"A": 2, "B": 1, "C": 1}
    assert counts.bands == {"0.9": 3, "0.3": 1}


def test_no_tile_is_no_count() -> None:
    counts = tally(np.empty((0, 3)), LABELS)
    assert (counts.labels, counts.bands) == ({}, {})


def test_shares_are_of_all_tiles_and_name_every_label_and_band() -> None:
    reference = Reference.counted(tally(np.array([[0.9, 0.1, 0.0]] * 3 + [[0.2, 0.8, 0.0]]), LABELS), LABELS)
    assert reference.labels == {"A": 0.75, "B": 0.25, "C": 0.0}
    assert set(reference.bands) == set(BANDS)
    assert sum(reference.bands.values()) == pytest.approx(1.0)
    assert Reference.of({REFERENCE: reference.to_json()}, LABELS) == reference


def test_a_manifest_that_says_nothing_has_no_reference_and_labels_that_are_not_the_models_are_not_taken() -> None:
    assert Reference.of({}, LABELS) == Reference({}, {})
    told = Reference.of({REFERENCE: {"labels": {"A": 0.5, "JANE DOE": 0.5}}}, LABELS)
    assert told.labels == {"A": 0.5}


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0]) | st.floats(0, 1), min_size=3, max_size=3))
def test_one_tile_is_counted_as_one_of_many_is(row: list[float]) -> None:
    one, two = tally(np.array([row]), LABELS), tally(np.array([row, row]), LABELS)
    assert {name: 2 * count for name, count in one.labels.items()} == two.labels
    assert {band: 2 * count for band, count in one.bands.items()} == two.bands
