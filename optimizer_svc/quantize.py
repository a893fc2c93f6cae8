"""Static int8 recipes: an fp32 ONNX file and calibration tiles to an int8 one in QDQ form."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from gramserve.runtime.engines import INPUT
from optimizer_svc.export import strip
from optimizer_svc.spec import Stopped

CALIBRATION_BATCH = 8

# The layers that do the arithmetic; Relu and Clip vanish into the range of the layer before them.
ARITHMETIC = ("Conv", "Gemm", "MatMul")
CORE = (*ARITHMETIC, "Relu", "Clip")
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


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to quantize; `title` is for people.

    Weights are symmetric int8 with one scale for each tensor or output channel, activations asymmetric uint8: the pair
    that x86 multiplies with VNNI (int8 activations measured the slower of the two). Ranges are minimum and maximum
    over the calibration tiles.
    """

    title: str
    granularity: Literal["tensor", "channel"]
    operators: tuple[str, ...]
    scope: Literal["core", "wide"]

    def to_json(self) -> dict[str, Any]:
        """What the manifest says of it."""
        facts = asdict(self)
        return {**facts, "operators": list(self.operators), "weights": "int8 symmetric", "activations": "uint8"}


# A new recipe is one entry here.
RECIPES: Final = MappingProxyType(
    {
        "int8_tensor_core": Recipe("int8, per tensor, arithmetic layers", "tensor", CORE, "core"),
        "int8_channel_core": Recipe("int8, per channel, arithmetic layers", "channel", CORE, "core"),
        "int8_tensor_wide": Recipe("int8, per tensor, all layers", "tensor", WIDE, "wide"),
        "int8_channel_wide": Recipe("int8, per channel, all layers", "channel", WIDE, "wide"),
    }
)


class CannotQuantize(Exception):
    """The recipe does not work on this model; the text says why, for the report."""


def quantize(
    model: bytes,
    recipe: Recipe,
    calibration: NDArray[np.uint8],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> bytes:
    """The int8 QDQ file of an fp32 one, calibrated on uint8 tiles [N, S, S, 3] of the training split.

    Static on purpose: dynamic quantization lets the neighbours in a batch change a tile's result. Calibration streams:
    its memory does not grow with N. Raises CannotQuantize, Stopped.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            proto = onnx.load_model_from_string(model)
            target = Path(folder) / "int8.onnx"
            quantize_static(
                proto,
                str(target),
                _Tiles(calibration, should_stop),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(recipe.operators),
                nodes_to_exclude=input_nodes(proto),
                per_channel=recipe.granularity == "channel",
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": False, "WeightSymmetric": True},
            )
            return strip(onnx.load(str(target))).SerializeToString()
    except Stopped:
        raise
    except Exception as error:  # onnxruntime's quantizer raises many kinds
        raise CannotQuantize(f"onnxruntime cannot quantize this model so ({type(error).__name__})") from None
    finally:
        logging.disable(before)


def input_nodes(proto: onnx.ModelProto) -> list[str]:
    """The names of the nodes between the input and the first arithmetic: they normalise.

    In int8 they would round the very pixels for no gain: only their result is quantized, once, for the first layer.
    """
    reached, names = {INPUT}, []
    for node in proto.graph.node:
        if node.op_type not in ARITHMETIC and reached & set(node.input):
            reached |= set(node.output)
            names.append(node.name)
    return names


class _Tiles(CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration tiles to onnxruntime, a few at a time."""

    def __init__(self, tiles: NDArray[np.uint8], should_stop: Callable[[], bool]) -> None:
        self._tiles = tiles
        self._should_stop = should_stop
        self._next = 0

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        """The next batch, or None at the end."""
        if self._should_stop():
            raise Stopped
        batch = self._tiles[self._next : self._next + CALIBRATION_BATCH]
        self._next += len(batch)
        return {INPUT: batch} if len(batch) else None
