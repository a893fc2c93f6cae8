"""Engines: every entry of the table runs the same model and fails in the same words."""

from __future__ import annotations

import numpy as np
import pytest

from gramserve.errors import ArtifactInvalid, Reason, SlideFailed
from gramserve.runtime.engines import ENGINES, open_engine
from gramserve.store.manifest import EngineSettings
from tests.artifacts import LABELS, coloured, tiny_model


@pytest.fixture(params=sorted(ENGINES))
def engine(request):
    return open_engine(tiny_model(), EngineSettings(name=request.param))


def test_an_engine_gives_one_logit_for_each_label(engine):
    logits = engine.run(np.stack([coloured(label, 32, 32) for label in LABELS]))
    assert logits.shape == (5, 5)
    assert logits.dtype == np.float32
    assert logits.argmax(axis=1).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_tiles_logits_do_not_depend_on_its_neighbours(engine, count):
    tiles = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    alone = np.concatenate([engine.run(tiles[i : i + 1]) for i in range(count)])
    assert np.allclose(engine.run(tiles), alone, atol=1e-4)


def test_an_engine_names_itself_and_its_threads(engine):
    assert engine.description.split()[0] in ENGINES
    assert "threads=1" in engine.description


def test_tiles_that_do_not_fit_fail_the_slide_without_a_word_of_the_engines(engine):
    with pytest.raises(SlideFailed) as failed:
        engine.run(np.zeros((1, 16, 16, 3), np.uint8))
    assert failed.value.reason is Reason.ENGINE_FAILED
    assert failed.value.retryable
    assert failed.value.__cause__ is None
    assert "16" not in failed.value.message


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_bytes_that_are_no_model_are_a_corrupt_artifact(name):
    with pytest.raises(ArtifactInvalid) as failed:
        open_engine(b"no model", EngineSettings(name=name))
    assert failed.value.reason is Reason.ARTIFACT_CORRUPT


def test_an_engine_that_is_not_there_is_named():
    with pytest.raises(ArtifactInvalid, match="abacus") as failed:
        open_engine(tiny_model(), EngineSettings(name="abacus"))
    assert failed.value.reason is Reason.MODEL_UNAVAILABLE


def test_settings_of_the_manifest_reach_onnxruntime_and_its_description():
    settings = EngineSettings(name="onnxruntime", settings={"session.x64quantprecision": "1"})
    assert open_engine(tiny_model(), settings).description.endswith("threads=1 session.x64quantprecision=1")
