"""Quantization by NNCF, which smooths outliers and corrects biases; it is kept from calling home."""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from types import ModuleType

import numpy as np
import onnx
from numpy.typing import NDArray

from gramserve.runtime.engines import INPUT
from gramserve.runtime.telemetry import keep_telemetry_out
from optimizer_svc.quantization.graph import input_nodes
from optimizer_svc.quantization.histograms import LEFT_OUT
from optimizer_svc.quantization.recipe import Recipe
from optimizer_svc.spec import Stopped

# What NNCF would quantize beside the layers that do the arithmetic.
BETWEEN = (
    "Add",
    "AveragePool",
    "Concat",
    "Div",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "LayerNormalization",
    "LeakyRelu",
    "Mul",
    "ReduceMean",
    "Resize",
    "Sigmoid",
    "Softmax",
    "Sub",
)


def quantize_by_nncf(
    proto: onnx.ModelProto,
    recipe: Recipe,
    tiles: NDArray[np.uint8],
    *,
    transformer: bool,
    should_stop: Callable[[], bool],
) -> onnx.ModelProto:
    """See `quantize`. Tiles go through one by one; NNCF keeps statistics of them, not activations."""
    nncf = nncf_without_telemetry()
    presets = importlib.import_module("nncf.common.quantization.structs").QuantizationPreset
    advanced = importlib.import_module("nncf.quantization.advanced_parameters")
    ranges = importlib.import_module("nncf.quantization.range_estimator")

    def feed(place: int) -> dict[str, NDArray[np.uint8]]:
        if should_stop():
            raise Stopped
        return {INPUT: tiles[place : place + 1]}

    if recipe.calibration == "minmax":
        estimator = ranges.RangeEstimatorParametersSet.MINMAX
    else:
        quantile = ranges.StatisticsCollectorParameters(
            statistics_type=ranges.StatisticsType.QUANTILE,
            aggregator_type=ranges.AggregatorType.MEAN,
            quantile_outlier_prob=LEFT_OUT / 2,
        )
        estimator = ranges.RangeEstimatorParameters(min=quantile, max=quantile)
    made: onnx.ModelProto = nncf.quantize(
        proto,
        nncf.Dataset(range(len(tiles)), feed),
        preset=presets.PERFORMANCE if recipe.activations == "symmetric" else presets.MIXED,
        subset_size=len(tiles),
        fast_bias_correction=recipe.bias_correction != "full",
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        ignored_scope=nncf.IgnoredScope(
            names=input_nodes(proto), types=list(BETWEEN) if recipe.scope == "core" else [], validate=False
        ),
        advanced_parameters=advanced.AdvancedQuantizationParameters(
            overflow_fix=advanced.OverflowFix.DISABLE,
            disable_bias_correction=recipe.bias_correction == "none",
            # Beside depthwise convolutions NNCF would give each channel a scale, on which onnxruntime fails.
            activations_quantization_params=advanced.QuantizationParameters(per_channel=False),
            weights_quantization_params=advanced.QuantizationParameters(per_channel=recipe.weights == "channel"),
            activations_range_estimator_params=estimator,
            smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(
                convolution=-1, matmul=0.95 if recipe.smooth else -1
            ),
        ),
    )
    return made


@functools.cache
def nncf_without_telemetry() -> ModuleType:
    """NNCF, loaded when it is first needed, silent and without the module by which it would report its use.

    Nothing of the optimizer calls out to the internet; for the telemetry that is kept out NNCF has a stand-in.
    """
    keep_telemetry_out()
    before = logging.getLoggerClass()
    try:
        nncf = importlib.import_module("nncf")
    finally:
        logging.setLoggerClass(before)  # NNCF puts its own for the whole process
    nncf.set_log_level(logging.CRITICAL)
    return nncf
