"""Which layers of an int8 model cost most, and the model with those left in fp32."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from gramserve.runtime.engines import open_engine
from gramserve.store.manifest import EngineSettings
from optimizer_svc.compact import compact
from optimizer_svc.onnx_graph import ARITHMETIC, Graph
from optimizer_svc.quantization.fallback import in_fp32, quantized_layers
from optimizer_svc.spec import Stopped

MAX_TILES = 32
# A reference that no engine reaches: in fp32 two engines agree to about 120 dB.
PERFECT_DB = 200.0
ENGINE = EngineSettings(name="onnxruntime")


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """One layer: its module's name, its ONNX operator and how many decibels of logit SNR its return to fp32 gains."""

    layer: str
    operator: str
    snr_gain_db: float


def logit_snr_db(reference: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    """Signal-to-noise ratio of the logits [N, C] in decibels: power of `reference` over power of the difference.

    Each tile's logits count without their mean, which softmax does not see. 20 dB: noise of a tenth of the signal.
    """
    signal = reference - reference.mean(axis=1, keepdims=True, dtype=np.float64)
    noise = signal - (given - given.mean(axis=1, keepdims=True, dtype=np.float64))
    power, wrong = float((signal**2).sum()), float((noise**2).sum())
    if not np.isfinite(wrong) or power == 0:
        return -PERFECT_DB
    return float(np.clip(10 * np.log10(power / max(wrong, power * 1e-20)), -PERFECT_DB, PERFECT_DB))


def layer_sensitivity(
    fp32: bytes,
    int8: bytes,
    tiles: NDArray[np.uint8],
    *,
    should_stop: Callable[[], bool] = lambda: False,
    deadline_s: float = 60.0,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[LayerSensitivity, ...]:
    """The quantized layers of `int8` by what their return to fp32 gains, worst first; layers one at a time.

    `fp32` is the file that `int8` was quantized from, `tiles` are uint8 [N, S, S, 3], of which 32 are used. After
    `deadline_s` seconds the layers that are left are not measured: the likely ones (first, last, depthwise, attention)
    come first. Raises Stopped.
    """
    original, rounded = onnx.load_model_from_string(fp32), onnx.load_model_from_string(int8)
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), MAX_TILES)).astype(int))
    tiles = np.ascontiguousarray(tiles[chosen])
    reference = open_engine(fp32, ENGINE).run(tiles)
    before = logit_snr_db(reference, open_engine(int8, ENGINE).run(tiles))
    ends = clock() + deadline_s
    found: list[LayerSensitivity] = []
    for node in _likely_first(original, quantized_layers(original, rounded)):
        if should_stop():
            raise Stopped
        if found and clock() > ends:
            break
        without = in_fp32(original, rounded, [node.name]).SerializeToString()
        after = logit_snr_db(reference, open_engine(without, ENGINE).run(tiles))
        found.append(LayerSensitivity(node.name, node.op_type, after - before))
    return tuple(sorted(found, key=lambda layer: -layer.snr_gain_db))


def keep_fp32(fp32: bytes, int8: bytes, layers: Sequence[str]) -> bytes:
    """The int8 model with those layers computed in fp32, from unrounded inputs with the weights of `fp32`.

    `layers` are names as `layer_sensitivity` gives them; ValueError for one that is no quantized layer of `int8`.
    """
    made = in_fp32(onnx.load_model_from_string(fp32), onnx.load_model_from_string(int8), layers)
    return compact(made).SerializeToString()


def _likely_first(proto: onnx.ModelProto, layers: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
    graph = Graph(proto)

    def rank(place: int, node: onnx.NodeProto) -> int:
        if node.op_type not in ARITHMETIC:
            return 3
        groups = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "group"), 1)
        weightless = not any(name in graph.constants for name in node.input)
        if place in {first, last}:
            return 0
        return 1 if groups > 1 or weightless or "attn" in node.name else 2

    places = [i for i, node in enumerate(layers) if node.op_type in ARITHMETIC] or [0]
    first, last = places[0], places[-1]
    order = sorted(range(len(layers)), key=lambda place: (rank(place, layers[place]), place))
    return [layers[place] for place in order]
