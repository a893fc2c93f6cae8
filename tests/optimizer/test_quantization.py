"""Every recipe on small real networks, on both engines."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from gramserve.runtime.engines import open_engine
from gramserve.store.manifest import EngineSettings
from optimizer_svc.architecture import build_model, default_input
from optimizer_svc.export import export
from optimizer_svc.gates import failed_gate
from optimizer_svc.quantization import RECIPES, CannotQuantize, Recipe, logit_snr_db, quantize, recipes_for
from optimizer_svc.spec import Stopped
from tests.sources import ROOT

ENGINE = EngineSettings(name="onnxruntime")
Tiles = NDArray[np.uint8]
Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Small:
    """A small network in fp32, tiles for it and what it answers."""

    fp32: bytes
    tiles: Tiles
    logits: Logits
    transformer: bool


def small(architecture: str, px: int, *, transformer: bool = False) -> Small:
    torch.manual_seed(0)
    tiles = np.random.default_rng(0).integers(0, 256, (8, px, px, 3), np.uint8)
    model = build_model(architecture, 5, px).eval()
    fp32 = export(model, default_input(architecture), tiles).model
    return Small(fp32, tiles, by_onnxruntime(fp32, tiles), transformer)


@pytest.fixture(scope="module")
def networks() -> dict[str, Small]:
    return {
        "residual": small("test_resnet", 32),
        "depthwise": small("mobilenetv2_035", 32),
        "transformer": small("test_vit", 64, transformer=True),
    }


def by_onnxruntime(model: bytes, tiles: Tiles) -> Logits:
    return open_engine(model, ENGINE).run(tiles)


def by_openvino(model: bytes, tiles: Tiles) -> Logits:
    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model), "CPU", options)
    return np.asarray(compiled(tiles)[0], np.float32)


ENGINES: tuple[Callable[[bytes, Tiles], Logits], ...] = (by_onnxruntime, by_openvino)


def quantizers(model: bytes) -> list[tuple[str, NDArray[np.generic], NDArray[np.generic]]]:
    """("weights" | "activations", scale, zero point) of every quantizer in the file."""
    graph = onnx.load_model_from_string(model).graph
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "QuantizeLinear":
            found.append(("activations", values[node.input[1]], values[node.input[2]]))
        elif node.op_type == "DequantizeLinear" and node.input[0] in values:
            found.append(("weights", values[node.input[1]], values[node.input[2]]))
    return found


CASES = [
    (network, recipe)
    for network, transformer in (("residual", False), ("depthwise", False), ("transformer", True))
    for recipe in recipes_for(transformer)
]


@pytest.mark.parametrize(("network", "name"), CASES)
def test_a_recipe_gives_a_small_model_that_both_engines_run_alike(
    networks: dict[str, Small], network: str, name: str
) -> None:
    given, recipe = networks[network], RECIPES[name]
    model = quantize(given.fp32, recipe, given.tiles, transformer=given.transformer)
    onnx.checker.check_model(onnx.load_model_from_string(model))
    assert len(model) < (0.45 if given.transformer else 0.35) * len(given.fp32)
    for run in ENGINES:
        assert logit_snr_db(given.logits, run(model, given.tiles)) > 15
    assert failed_gate(model, ENGINE, given.tiles, 5) == ""
    assert np.abs(by_openvino(model, given.tiles)[:1] - by_openvino(model, given.tiles[:1])).max() < 1e-4

    found = quantizers(model)
    weights = [(scale, zero) for kind, scale, zero in found if kind == "weights"]
    activations = [zero for kind, _, zero in found if kind == "activations"]
    assert all(zero.dtype == np.int8 and not zero.any() for _, zero in weights)
    assert any(scale.size > 1 for scale, _ in weights) == (recipe.weights == "channel")
    assert {zero.dtype.name for zero in activations} == {"int8" if given.transformer else "uint8"}
    if recipe.activations == "symmetric":
        middle = 0 if given.transformer else 128
        assert {int(zero) for zero in activations} <= {middle, middle - 128, middle + 128}


def test_the_wide_scope_quantizes_additions_and_the_core_scope_does_not(networks: dict[str, Small]) -> None:
    given = networks["residual"]
    narrow, wide = (
        quantize(given.fp32, RECIPES[name], given.tiles, transformer=False)
        for name in ("int8_tensor_core", "int8_tensor_wide")
    )
    assert len(quantizers(wide)) > len(quantizers(narrow))


def test_each_tool_gives_the_same_file_every_time(networks: dict[str, Small]) -> None:
    given = networks["residual"]
    for name in ("int8_channel_core_mse", "nncf_wide_full_bias"):
        one, two = (quantize(given.fp32, RECIPES[name], given.tiles, transformer=False) for _ in range(2))
        assert one == two


@pytest.mark.parametrize("tool", ["onnxruntime", "nncf"])
def test_quantization_stops_when_asked(networks: dict[str, Small], tool: str) -> None:
    recipe = next(r for r in RECIPES.values() if r.tool == tool and r.suits(transformer=False))
    with pytest.raises(Stopped):
        quantize(
            networks["residual"].fp32, recipe, networks["residual"].tiles, transformer=False, should_stop=lambda: True
        )


@pytest.mark.parametrize("tool", ["onnxruntime", "nncf"])
def test_a_model_that_cannot_be_quantized_is_said_to_be(tool: str) -> None:
    recipe = next(r for r in RECIPES.values() if r.tool == tool)
    with pytest.raises(CannotQuantize, match=f"{tool} cannot quantize"):
        quantize(b"no model", recipe, np.zeros((1, 32, 32, 3), np.uint8), transformer=False)


def test_recipes_that_make_no_sense_for_a_network_are_left_out() -> None:
    assert all(RECIPES[name].scope == "core" for name in recipes_for(True))
    assert not any(RECIPES[name].smooth for name in recipes_for(False))
    assert {*recipes_for(True), *recipes_for(False)} == set(RECIPES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tool": "onnxruntime", "smooth": True},
        {"tool": "onnxruntime", "bias_correction": "full"},
        {"tool": "nncf", "calibration": "entropy"},
    ],
)
def test_a_recipe_that_its_tool_cannot_follow_does_not_exist(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="nncf"):
        Recipe(**{"title": "wrong", "weights": "channel", **wrong})  # type: ignore[arg-type]


def test_nncf_opens_no_connection_and_prints_nothing(networks: dict[str, Small], tmp_path_factory: object) -> None:
    # In a process of its own: NNCF switches its telemetry off where pytest is loaded, so here it would prove nothing.
    program = """
        import sys
        asked = []
        sys.addaudithook(lambda event, _: asked.append(event) if event.startswith("socket.") else None)
        import numpy as np
        from optimizer_svc.quantization import RECIPES, quantize
        model = sys.stdin.buffer.read()
        tiles = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        quantize(model, RECIPES["nncf_wide"], tiles, transformer=False)
        assert sys.modules["nncf"]
        assert sys.modules["openvino_telemetry"] is None
        reached = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"} & set(asked)
        assert not reached, reached
    """
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)],
        input=networks["residual"].fp32,
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == b""
