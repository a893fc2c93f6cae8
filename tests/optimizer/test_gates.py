"""Gates that look at more than one engine, and at the size of the file."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gramserve.errors import InvalidInput
from gramserve.runtime.engines import engine_options, installed_engines, open_engine
from gramserve.runtime.golden import check_golden, make_golden
from gramserve.store.manifest import EngineSettings
from optimizer_svc.candidates import engine_label, engines_for
from optimizer_svc.gates import failed_gate, golden_holds, other_engines, too_large
from optimizer_svc.package import golden
from optimizer_svc.spec import OptimizationSpec
from tests.artifacts import tiny_model

ONNXRUNTIME = EngineSettings(name="onnxruntime", batch_tiles=4)
PROBE = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)


def candidate(engine: EngineSettings = ONNXRUNTIME, recipe: str = "fp32") -> SimpleNamespace:
    return SimpleNamespace(model=tiny_model(), engine=engine, recipe=recipe)


@pytest.mark.parametrize("option", engine_options(), ids=lambda option: option.name)
def test_a_sound_model_passes_the_gates_on_every_engine(option: EngineSettings) -> None:
    assert failed_gate(tiny_model(), option, PROBE, 5) == ""


@pytest.mark.parametrize("option", engine_options(), ids=lambda option: option.name)
def test_golden_vectors_of_one_engine_hold_on_all_others(option: EngineSettings) -> None:
    vectors = golden(candidate(option), 32)
    for other in engine_options():
        assert golden_holds(tiny_model(), vectors, other, labels=5, input_px=32)


def asked(*engines: str) -> list[str]:
    spec = OptimizationSpec(Path("c"), "a", (), Path("d"), "m", engines=engines)
    return [engine_label(option) for option in engines_for(spec)]


def test_bfloat16_is_measured_where_it_is_asked_for_by_name_and_the_cpu_computes_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gramserve.runtime.engines.options.cpu_flags", lambda: {"avx512_bf16", "avx512_vnni"})
    assert asked() == ["onnxruntime", "openvino"]
    assert asked("onnxruntime", "openvino-bf16") == ["onnxruntime", "openvino bf16"]
    monkeypatch.setattr("gramserve.runtime.engines.options.cpu_flags", lambda: {"avx512_vnni"})
    with pytest.raises(InvalidInput, match="openvino-bf16 is not installed, or not for this CPU"):
        asked("openvino-bf16")


def test_golden_vectors_do_not_hold_for_another_model() -> None:
    vectors = golden(candidate(), 32)
    assert not golden_holds(tiny_model(sharpness=70), vectors, ONNXRUNTIME, labels=5, input_px=32)
    assert not golden_holds(tiny_model(), b"", ONNXRUNTIME, labels=5, input_px=32)
    assert not golden_holds(tiny_model(), vectors, EngineSettings(name="abacus"), labels=5, input_px=32)


@pytest.mark.parametrize(("recipe", "least"), [("fp32", 1e-3), ("int8", 0.05)])
def test_the_tolerance_of_golden_vectors_is_a_share_of_the_largest_logit(recipe: str, least: float) -> None:
    vectors = golden(candidate(recipe=recipe), 32)
    with np.load(io.BytesIO(vectors)) as arrays:
        largest = np.abs(arrays["logits"]).max()
        assert least * largest <= float(arrays["tolerance"]) * (1 + 1e-9) <= 0.25 * largest
    engine = open_engine(tiny_model(), ONNXRUNTIME)
    assert check_golden(engine, vectors, labels=5, input_px=32, batch_tiles=4) == 0


def test_other_engines_are_those_on_which_the_artifact_may_serve_too() -> None:
    pytest.importorskip("openvino")
    vectors = golden(candidate(), 32)
    options = engine_options(bf16=True, flags={"avx512_bf16", "avx512_vnni"})
    others = other_engines(tiny_model(), vectors, ONNXRUNTIME, options, PROBE, classes=5)
    assert [(other.name, other.settings) for other in others] == [("openvino", {})]
    wrong = make_golden(open_engine(tiny_model(sharpness=70), ONNXRUNTIME), PROBE, tolerance=0.1, batch_tiles=4)
    assert other_engines(tiny_model(), wrong, ONNXRUNTIME, options, PROBE, classes=5) == ()


def test_golden_vectors_are_made_where_only_one_engine_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert installed_engines() == ("onnxruntime",)
    assert golden_holds(tiny_model(), golden(candidate(), 32), ONNXRUNTIME, labels=5, input_px=32)


def test_a_file_that_stores_weights_twice_is_too_large() -> None:
    parameters = 5_000_000
    assert too_large(b"x" * int(4 * parameters * 1.05), parameters) == ""
    assert "20,000,000" in too_large(b"x" * (8 * parameters), parameters)
    assert too_large(tiny_model(), 29) == ""
