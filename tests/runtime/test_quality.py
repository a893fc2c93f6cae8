"""Which tiles are fit to read: focus, emptiness, magnification and likeness to what the model knows."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from gramserve.calls import Outcome, ReviewReason, UnassessableReason
from gramserve.images.tiles import Box
from gramserve.runtime.artifact import Classifier
from gramserve.runtime.conditions import conditions_of
from gramserve.runtime.energy import energy_of
from gramserve.runtime.engines import open_engine
from gramserve.runtime.look import distance_of, look_of
from gramserve.runtime.magnification import misscaled
from gramserve.runtime.preprocess import Place
from gramserve.runtime.quality import CONTRAST, SATURATION, SHARPNESS, blank_and_unfocused, focus_of, measure_quality
from gramserve.runtime.readings import Readings
from gramserve.samples import LABELS, Sample
from gramserve.store.manifest import Aggregation, Familiarity, Look, Preprocessing, TileQuality
from tests.artifacts import coloured, tiny_draft

RULES = TileQuality(focus_exponent=1.0, min_focus=0.35, min_contrast=2.0, min_saturation=2.0)
GLASS = np.clip(np.random.default_rng(1).normal(242, 1.5, (1, 96, 96, 3)), 0, 255).astype(np.uint8)


def tiles() -> np.ndarray:
    return np.stack([Sample(label, seed, 96, 96).render() for label in LABELS[1:] for seed in range(5)])


def blurred(pictures: np.ndarray, sigma_px: float) -> np.ndarray:
    return np.stack([cv2.GaussianBlur(picture, (0, 0), sigma_px) for picture in pictures])


def test_every_blur_takes_sharpness_away():
    sharp = measure_quality(tiles())
    for sigma_px in (1.5, 3.0):
        soft = measure_quality(blurred(tiles(), sigma_px))
        assert (soft[:, SHARPNESS] < sharp[:, SHARPNESS]).all()
        assert (focus_of(soft, 1.0) < focus_of(sharp, 1.0)).all()
        sharp = soft


def test_glass_has_neither_contrast_nor_colour_and_is_blank_and_not_out_of_focus():
    measured = measure_quality(GLASS)
    assert measured[0, CONTRAST] < 2.0
    assert measured[0, SATURATION] < 2.0
    assert [mask.tolist() for mask in blank_and_unfocused(measured, RULES)] == [[True], [False]]


def test_a_stained_tile_out_of_focus_is_unfocused_and_not_blank():
    blank, unfocused = blank_and_unfocused(measure_quality(blurred(tiles(), 6.0)), RULES)
    assert not blank.any()
    assert unfocused.all()


def test_with_the_exponent_2_focus_does_not_depend_on_the_strength_of_the_stain():
    picture = tiles()[:1]
    faint = (128 + (picture.astype(np.int16) - 128) // 2).astype(np.uint8)
    strong, weak = (focus_of(measure_quality(p), 2.0)[0] for p in (picture, faint))
    assert weak == pytest.approx(strong, rel=0.2)


def test_one_tile_measures_the_same_in_any_company():
    together = measure_quality(tiles())
    assert all((measure_quality(tile[None])[0] == row).all() for tile, row in zip(tiles(), together, strict=True))


def test_energy_is_low_where_a_model_is_sure_and_stays_finite():
    energies = energy_of(np.array([[9.0, 0.0], [1.0, 0.0], [1e4, 0.0], [-1e4, -1e4]], np.float32))
    assert np.isfinite(energies).all()
    assert energies[2] < energies[0] < energies[1] < energies[3]
    assert energies[1] == pytest.approx(-np.log(np.e + 1))


def grid(**more: object) -> Preprocessing:
    contract = {"input_px": 224, "tiling": "grid", "tile_px": 500, "max_single_px": 750, "min_px": 100}
    return Preprocessing.model_validate({**contract, **more})


def wrong(preprocessing: Preprocessing, *edges: int) -> list[bool]:
    return misscaled([Place(0, Box(0, 0, edge, edge)) for edge in edges], preprocessing, 1.6).tolist()


def test_tiles_of_a_grid_that_are_much_larger_or_smaller_than_the_models_are_at_the_wrong_magnification():
    assert wrong(grid(), 500, 750, 801, 320, 310) == [False, False, True, False, True]


def test_a_slide_scanned_too_coarsely_for_the_model_is_at_the_wrong_magnification():
    """A model made at 0.08 microns a pixel; its tiles have 160 pixels at 0.25 microns and 80 at 0.5."""
    assert wrong(grid(mpp=0.08), 500, 160, 80, 1000) == [False, False, True, False]


def test_nothing_is_said_of_the_magnification_of_tiles_that_vary_by_nature():
    assert wrong(grid(tiling="single"), 500, 50, 5000) == [False, False, False]


def classifier(**rules: object) -> Classifier:
    files, draft = tiny_draft()
    aggregation = draft.aggregation.model_copy(update=rules)
    return Classifier(
        draft.model_copy(update={"aggregation": aggregation}), open_engine(files["model.onnx"], draft.engine)
    )


def test_an_artifact_without_rules_of_quality_measures_nothing_and_finds_all_tiles_fit():
    readings = classifier().read([coloured("BACKGROUND", 200, 130)])
    assert readings.quality is None
    found = conditions_of(readings, tiny_draft()[1].preprocessing, tiny_draft()[1].aggregation)
    assert found.assessed.all()


def test_a_blank_slide_is_unassessable_and_its_quality_travels_with_its_readings():
    quality = TileQuality(focus_exponent=0.0, min_focus=0.0, min_contrast=3.0, min_saturation=3.0)
    blank = classifier(quality=quality)
    readings = blank.read([coloured("BACKGROUND", 200, 130)])
    assert readings.quality is not None
    assert readings.quality.shape == (12, 6)
    called = blank.call(readings)
    assert (called.outcome, called.unassessable_reason) == (Outcome.UNASSESSABLE, UnassessableReason.BLANK)
    assert (called.tile_count, called.assessed_tiles) == (12, 0)


def test_a_slide_out_of_focus_is_unassessable():
    quality = TileQuality(focus_exponent=0.0, min_focus=1.0, min_contrast=0.0, min_saturation=0.0)
    called = classifier(quality=quality).classify([coloured("GNR", 200, 130)]).call
    assert called.unassessable_reason is UnassessableReason.OUT_OF_FOCUS
    assert not called.findings


def test_a_narrow_field_is_at_the_wrong_magnification():
    called = classifier(max_scale=1.5).classify([coloured("GNR", 300, 20)]).call
    assert called.unassessable_reason is UnassessableReason.WRONG_MAGNIFICATION


def test_a_slide_unlike_the_training_data_goes_to_a_person():
    energies = energy_of(classifier().read([coloured("GNR")]).logits)
    strange = Familiarity(max_energy=float(energies[0]) - 1e-6, max_strange=0.2)
    called = classifier(familiarity=strange).classify([coloured("GNR")]).call
    assert called.review_reasons == (ReviewReason.OUT_OF_DISTRIBUTION,)
    known = Familiarity(max_energy=float(energies[0]) + 1e-6, max_strange=0.2)
    assert not classifier(familiarity=known).classify([coloured("GNR")]).call.review_required


def test_a_tile_of_another_stain_is_strange_however_sure_the_model_is():
    unit = tuple(tuple(float(row == column) for column in range(5)) for row in range(5))
    own = measure_quality(coloured("GNR", 32, 32)[None])
    look = Look(centre=tuple(look_of(own)[0]), whitening=unit, max_distance=5.0)
    known = classifier(familiarity=Familiarity(max_energy=1e9, max_strange=0.2, look=look))
    assert not known.classify([coloured("GNR")]).call.review_required
    assert known.classify([coloured("GPR")]).call.review_reasons == (ReviewReason.OUT_OF_DISTRIBUTION,)
    assert distance_of(own, look).tolist() == [0.0]


def test_no_tile_is_counted_twice():
    rules = Aggregation(
        tile_probability=0.5,
        min_tiles=1,
        top_k=1,
        review_probability=0.5,
        max_evidence=1,
        quality=RULES,
        max_scale=1.5,
    )
    pictures = np.concatenate([GLASS, blurred(tiles()[:1], 6.0), tiles()[:1]])
    places = [Place(0, Box(0, 0, 50, 50))] * 3
    readings = Readings(np.zeros((3, 5), np.float32), tuple(places), 0.0, measure_quality(pictures))
    assert conditions_of(readings, grid(), rules).counts == (1, 1, 1)
