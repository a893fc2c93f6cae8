"""Which layers rounding costs most, and models that keep those in fp32."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import openvino
import pytest
import torch
from numpy.typing import NDArray

from gramserve.runtime.engines import open_engine
from gramserve.store.manifest import EngineSettings
from optimizer_svc.architecture import build_model, default_input
from optimizer_svc.export import export
from optimizer_svc.quantization import RECIPES, keep_fp32, layer_sensitivity, logit_snr_db, quantize
from optimizer_svc.quantization.fallback import quantized_layers
from optimizer_svc.spec import Stopped

ENGINE = EngineSettings(name="onnxruntime")
NETWORKS = {"test_resnet": 32, "mobilenetv2_035": 32, "test_vit": 64}
Tiles = NDArray[np.uint8]


@pytest.fixture(scope="module")
def exported() -> dict[str, tuple[bytes, Tiles]]:
    made = {}
    for architecture, px in NETWORKS.items():
        torch.manual_seed(0)
        tiles = np.random.default_rng(0).integers(0, 256, (8, px, px, 3), np.uint8)
        model = build_model(architecture, 5, px).eval()
        # Batch-norm shifts, so that layers have biases as in a trained network.
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.normal_(module.bias, 0, 0.2)
        made[architecture] = (export(model, default_input(architecture), tiles).model, tiles)
    return made


def run(model: bytes, tiles: Tiles) -> NDArray[np.float32]:
    return open_engine(model, ENGINE).run(tiles)


def by_openvino(model: bytes, tiles: Tiles) -> NDArray[np.float32]:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(compiled(tiles)[0], np.float32)


@pytest.mark.parametrize(
    ("architecture", "recipe"),
    [
        ("test_resnet", "int8_channel_core"),
        ("test_resnet", "int8_tensor_wide"),
        ("mobilenetv2_035", "int8_channel_core"),
        ("mobilenetv2_035", "nncf_wide_full_bias"),
        ("test_vit", "int8_channel_core"),
        ("test_vit", "nncf_smooth"),
    ],
)
def test_a_model_with_every_layer_in_fp32_gives_the_fp32_logits_on_both_engines(
    exported: dict[str, tuple[bytes, Tiles]], architecture: str, recipe: str
) -> None:
    fp32, tiles = exported[architecture]
    int8 = quantize(fp32, RECIPES[recipe], tiles, transformer=architecture == "test_vit")
    layers = quantized_layers(onnx.load_model_from_string(fp32), onnx.load_model_from_string(int8))
    wanted = run(fp32, tiles)
    assert logit_snr_db(wanted, run(int8, tiles)) < 60

    all_of_them = keep_fp32(fp32, int8, [layer.name for layer in layers])
    onnx.checker.check_model(onnx.load_model_from_string(all_of_them))
    assert logit_snr_db(wanted, run(all_of_them, tiles)) > 100
    assert logit_snr_db(wanted, by_openvino(all_of_them, tiles)) > 100

    some = keep_fp32(fp32, int8, [layer.name for layer in layers[::3]])
    onnx.checker.check_model(onnx.load_model_from_string(some))
    assert len(int8) < len(some) < len(fp32)
    assert logit_snr_db(wanted, run(some, tiles)) > 15
    assert logit_snr_db(wanted, by_openvino(some, tiles)) > 15


def test_the_layer_that_rounding_hurts_most_comes_first(exported: dict[str, tuple[bytes, Tiles]]) -> None:
    fp32, tiles = exported["test_resnet"]
    broken = onnx.load_model_from_string(quantize(fp32, RECIPES["int8_channel_core"], tiles, transformer=False))
    # The weights of one layer lose five of their eight bits.
    weights = next(node for node in broken.graph.node if node.name == "layer4.0.downsample.1").input[1]
    codes = next(node for node in broken.graph.node if node.output[0] == weights).input[0]
    tensor = next(t for t in broken.graph.initializer if t.name == codes)
    values = onnx.numpy_helper.to_array(tensor).astype(np.int16)
    tensor.CopyFrom(onnx.numpy_helper.from_array((np.clip(np.round(values / 32), -3, 3) * 32).astype(np.int8), codes))

    found = layer_sensitivity(fp32, broken.SerializeToString(), tiles)
    assert found[0].layer == "layer4.0.downsample.1"
    assert found[0].operator == "Conv"
    assert found[0].snr_gain_db > 5
    gains = [layer.snr_gain_db for layer in found]
    assert gains == sorted(gains, reverse=True)


def test_after_the_deadline_only_the_likely_layers_were_measured(exported: dict[str, tuple[bytes, Tiles]]) -> None:
    fp32, tiles = exported["mobilenetv2_035"]
    int8 = quantize(fp32, RECIPES["int8_channel_core"], tiles, transformer=False)
    clock = itertools.count().__next__
    found = layer_sensitivity(fp32, int8, tiles, deadline_s=3.0, clock=lambda: float(clock()))
    assert {layer.layer for layer in found} >= {"conv_stem", "classifier"}
    assert len(found) < 6
    assert all("conv_dw" in layer.layer for layer in found if layer.layer not in {"conv_stem", "classifier"})


def test_measuring_stops_when_asked_and_unknown_layers_are_refused(exported: dict[str, tuple[bytes, Tiles]]) -> None:
    fp32, tiles = exported["test_resnet"]
    int8 = quantize(fp32, RECIPES["int8_channel_core"], tiles, transformer=False)
    with pytest.raises(Stopped):
        layer_sensitivity(fp32, int8, tiles, should_stop=lambda: True)
    with pytest.raises(ValueError, match="no quantized layer"):
        keep_fp32(fp32, int8, ["layer9"])


def test_the_ratio_of_signal_to_noise_is_in_decibels_and_blind_to_what_softmax_does_not_see() -> None:
    logits = np.random.default_rng(0).normal(0, 1, (50, 5)).astype(np.float32)
    logits -= logits.mean(axis=1, keepdims=True)
    assert logit_snr_db(logits, logits * np.float32(1.1)) == pytest.approx(20, abs=0.01)
    assert logit_snr_db(logits, logits + 3) > 100
    assert logit_snr_db(logits, np.full_like(logits, np.nan)) < -100
