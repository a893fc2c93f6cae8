"""The rules for slides that the optimizer sets on val, and what they notice."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from gramserve.runtime.conditions import strange_tiles
from gramserve.runtime.energy import energy_of
from gramserve.runtime.quality import blank_and_unfocused, measure_quality
from gramserve.samples import LABELS as NAMES
from gramserve.samples import Sample as Picture
from gramserve.store.manifest import Label, Preprocessing
from optimizer_svc.quantity_bands import bands_for
from optimizer_svc.slide_rules import SlideRules, fit_slide_rules
from optimizer_svc.splits import Sample, Split
from optimizer_svc.stand_ins import blurred, glass, unfamiliar
from optimizer_svc.tiles import TileSet
from tests.optimizer.conftest import LABELS

GRID = Preprocessing(input_px=96, tiling="grid", tile_px=160, max_single_px=240, min_px=40)
EACH = 12


def answer(tiles: np.ndarray) -> np.ndarray:
    """Logits of a model that knows bright pictures: the darker one is, the smaller they are."""
    logits = np.zeros((len(tiles), 5), np.float32)
    logits[:, 0] = tiles.mean(axis=(1, 2, 3)) / 10
    return logits


@pytest.fixture(scope="module")
def val() -> TileSet:
    tiles = np.stack([Picture(name, seed, 96, 96).render() for name in NAMES for seed in range(EACH)])
    return TileSet(tiles, np.repeat(np.arange(5), EACH))


def split_of(val: TileSet) -> Split:
    rows = enumerate(val.targets.tolist())
    return Split("val", tuple(Sample(Path("x"), target, str(place), "") for place, target in rows), "")


def fitted(val: TileSet, logits: np.ndarray, *, labels: tuple[Label, ...] = LABELS) -> SlideRules:
    return fit_slide_rules(val, val, split_of(val), logits, 1.0, labels, GRID, answer)


@pytest.fixture(scope="module")
def rules(val: TileSet) -> SlideRules:
    return fitted(val, answer(val.tiles))


def test_no_more_tiles_of_val_are_turned_away_than_was_allowed(val: TileSet, rules: SlideRules) -> None:
    blank, unfocused = blank_and_unfocused(measure_quality(val.tiles), rules.quality)
    assert not blank.any()
    assert unfocused.mean() <= 0.01
    assert (strange_tiles(energy_of(answer(val.tiles)), measure_quality(val.tiles), rules.familiarity)).mean() <= 0.02


def test_what_it_notices_is_measured_on_tiles_spoilt_on_purpose(val: TileSet, rules: SlideRules) -> None:
    noticed = {one.name: one.noticed for one in rules.stand_ins}
    assert noticed["clean glass"] == 1.0
    _, unfocused = blank_and_unfocused(measure_quality(blurred(val.tiles, 0)), rules.quality)
    assert noticed["out of focus"] == unfocused.mean()
    for name, tiles in unfamiliar(val.tiles, 0).items():
        strange = strange_tiles(energy_of(answer(tiles)), measure_quality(tiles), rules.familiarity)
        assert noticed[name] == strange.mean()
    assert noticed["noise"] == noticed["colours inverted"] == 1.0


def test_a_check_that_notices_little_is_not_to_be_relied_on_and_the_report_says_so(rules: SlideRules) -> None:
    for one in rules.stand_ins:
        assert any(f"({one.name})" in note for note in rules.notes) == (one.noticed < 0.5)


def test_the_same_tiles_give_the_same_rules_that_json_can_hold(val: TileSet, rules: SlideRules) -> None:
    again = fitted(val, answer(val.tiles))
    assert again == rules
    assert json.loads(json.dumps(again.to_json(), allow_nan=False))["tiles"] == len(val)


def test_few_empty_tiles_do_not_promise_that_false_alarms_never_happen(val: TileSet) -> None:
    quiet = np.zeros((len(val), 5), np.float32)
    quiet[:, 0] = 9
    assert fitted(val, quiet).tile_false_alarm == pytest.approx(0.5 / 13, abs=1e-6)
    loud = quiet.copy()
    loud[0, 1] = 20  # one of the twelve empty tiles shows rods
    assert fitted(val, loud).tile_false_alarm == pytest.approx(1.5 / 13, abs=1e-6)
    loud[EACH:, 2] = 20  # what is seen on tiles with organisms is no false alarm of an empty slide
    assert fitted(val, loud).tile_false_alarm == pytest.approx(1.5 / 13, abs=1e-6)


def test_stand_ins_have_the_shape_of_tiles(val: TileSet) -> None:
    spoilt = [blurred(val.tiles, 0), *unfamiliar(val.tiles, 0).values()]
    assert all(tiles.shape == val.tiles.shape and tiles.dtype == np.uint8 for tiles in spoilt)
    assert glass(96, 0).shape[1:] == (96, 96, 3)


def test_the_bands_are_those_of_an_oil_immersion_field_for_tiles_of_this_size() -> None:
    bands, note = bands_for(GRID.model_copy(update={"tile_px": 500, "mpp": 0.08}))
    area = 40**2 / (math.pi * 100**2)
    assert bands is not None
    assert bands.few == pytest.approx(1 - math.exp(-1 * area), abs=1e-6)
    assert bands.moderate == pytest.approx(1 - math.exp(-6 * area), abs=1e-6)
    assert bands.many == pytest.approx(1 - math.exp(-30 * area), abs=1e-6)
    assert bands.min_tiles == 4
    assert "by 0.08 microns" in note


def test_the_reference_table_in_the_docs_is_that_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "docs/slide_call.md").read_text()
    rows = re.findall(
        r"^\| (\d+) µm \| (\d+) \| ([\d.]+) % \| ([\d.]+) % \| ([\d.]+) % \| (\d+) tiles \|$", text, re.MULTILINE
    )
    assert len(rows) == 5
    for edge, _, *shares, least in rows:
        bands, _ = bands_for(GRID.model_copy(update={"tile_px": int(edge), "mpp": 1.0}))
        assert bands is not None
        assert [f"{100 * share:.1f}" for share in (bands.few, bands.moderate, bands.many)] == shares
        assert bands.min_tiles == int(least)


def test_bands_that_rest_on_an_assumed_magnification_say_so() -> None:
    assert "assuming 0.08 microns" in bands_for(GRID)[1]


def test_tiles_of_varying_size_are_not_graded() -> None:
    bands, note = bands_for(GRID.model_copy(update={"tiling": "single"}))
    assert bands is None
    assert "not told" in note
