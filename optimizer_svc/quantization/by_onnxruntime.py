"""Quantization by onnxruntime's QDQ quantizer with ranges of our own calibration."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

from optimizer_svc.onnx_graph import ARITHMETIC, CLAMPS, Graph
from optimizer_svc.quantization.calibration import calibrate
from optimizer_svc.quantization.graph import activation_products, float_embeddings, input_nodes
from optimizer_svc.quantization.histograms import Range
from optimizer_svc.quantization.recipe import Recipe

CORE = (*ARITHMETIC, *CLAMPS)
# What stands between them in convolutional networks, so that tensors stay int8 from layer to layer. Softmax,
# LayerNormalization and GELU are left out: their int8 kernels are slower than fp32 and cost accuracy.
WIDE = (
    *CORE,
    "Add",
    "AveragePool",
    "Concat",
    "Flatten",
    "GlobalAveragePool",
    "HardSigmoid",
    "LeakyRelu",
    "MaxPool",
    "Mul",
    "Pad",
    "ReduceMean",
    "Reshape",
    "Resize",
    "Sigmoid",
    "Slice",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
# Their int8 kernels give fp32: rounding what they give would be for nothing.
FLOAT_RESULTS = ("Gemm", "MatMul")


def quantize_by_onnxruntime(
    proto: onnx.ModelProto,
    recipe: Recipe,
    tiles: NDArray[np.uint8],
    *,
    transformer: bool,
    should_stop: Callable[[], bool],
) -> onnx.ModelProto:
    """See `quantize`."""
    operators = CORE if recipe.scope == "core" else WIDE
    # Attention multiplies two activations: a twentieth of the work, and rounding both sides gained nothing.
    left_out = input_nodes(proto) + (activation_products(proto) if transformer else [])
    proto = onnx.shape_inference.infer_shapes(proto)
    ranges = calibrate(proto, _tensors(proto, operators, left_out), tiles, recipe.calibration, should_stop)
    if recipe.activations == "symmetric":
        ranges = {name: symmetric(*ends) for name, ends in ranges.items()}
    quantizer = QDQQuantizer(
        proto,
        recipe.weights == "channel",
        False,  # reduce_range: seven bits, for CPUs without VNNI
        QuantType.QInt8,
        QuantType.QUInt8,
        TensorsData(
            CalibrationMethod.MinMax,
            {name: (np.array(low, np.float32), np.array(high, np.float32)) for name, (low, high) in ranges.items()},
        ),
        [],
        left_out,
        list(operators),
        {
            "ActivationSymmetric": False,  # the ranges say it
            "WeightSymmetric": True,
            # In int32 a bias takes three times the room (a scale and a zero point for each), and engines make it so.
            "QuantizeBias": False,
            "OpTypesToExcludeOutputQuantization": list(FLOAT_RESULTS),
        },
    )
    quantizer.quantize_model()
    made: onnx.ModelProto = quantizer.model.model
    return float_embeddings(made) if transformer else made


def symmetric(low: float, high: float) -> Range:
    """The range whose uint8 zero point is 0 where nothing lies below zero, else exactly 128."""
    if low >= 0:
        return 0.0, high
    step = max(-low / 128, high / 127)
    return -128 * step, 127 * step


def _tensors(proto: onnx.ModelProto, operators: tuple[str, ...], left_out: list[str]) -> list[str]:
    """The float tensors that nodes of those operators read and give."""
    graph = Graph(proto)
    known = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    known |= {value.name: value.type.tensor_type.elem_type for value in proto.graph.output}
    names = dict.fromkeys(
        name
        for node in proto.graph.node
        if node.op_type in operators and node.name not in left_out
        for name in (*node.input, *node.output)
    )
    return [n for n in names if n not in graph.constants and known.get(n) == TensorProto.FLOAT]
