"""The ways to quantize that are tried, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Final, Literal


class CannotQuantize(Exception):
    """The recipe does not work on this model; the text says why, for the report."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One way to make a static int8 model in QDQ form; `title` is for people.

    weights: symmetric int8 with one scale for each tensor or each output channel (Krishnamoorthi 2018).
    activations: uint8; symmetric means that the zero point is 0, or 128 where values below zero occur.
    calibration: how the range of an activation follows from what the calibration tiles give: all of it, all but 1 in
    10 000 values, the least Kullback-Leibler divergence (Migacz 2017), the least squared error.
    scope: core = convolutions and matrix products; wide = what lies between them too.
    smooth: outliers move from activations into weights (SmoothQuant, Xiao et al. 2023); transformers only.
    bias_correction: biases make up for what rounding shifts on average (Nagel et al. 2019): fast from each layer alone,
    full with all layers before it quantized already.
    ValueError for what the tool cannot do.
    """

    title: str
    tool: Literal["onnxruntime", "nncf"]
    weights: Literal["tensor", "channel"]
    activations: Literal["asymmetric", "symmetric"] = "asymmetric"
    calibration: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    scope: Literal["core", "wide"] = "core"
    smooth: bool = False
    bias_correction: Literal["none", "fast", "full"] = "none"

    def __post_init__(self) -> None:
        if self.tool == "onnxruntime" and (self.smooth or self.bias_correction != "none"):
            raise ValueError("smoothing and bias correction are done by nncf")
        if self.tool == "nncf" and self.calibration in {"entropy", "mse"}:
            raise ValueError("nncf knows no entropy or mse calibration")

    def to_json(self) -> dict[str, Any]:
        """What the manifest says of it."""
        return {**asdict(self), "weight_type": "int8 symmetric", "activation_type": "uint8"}

    def suits(self, *, transformer: bool) -> bool:
        """False where it cannot make sense.

        Softmax, LayerNormalization and GELU in int8 are slower than in fp32 and cost accuracy, so a transformer's scope
        is `core`; the sums of a convolutional network in fp32 keep the layers before them out of int8 kernels, so nncf,
        which rounds nothing but inputs, needs `wide` there.
        """
        if transformer:
            return self.scope == "core"
        return not self.smooth and (self.tool == "onnxruntime" or self.scope == "wide")


def _ort(title: str, **settings: Any) -> Recipe:
    return Recipe(title, "onnxruntime", **settings)


def _nncf(title: str, **settings: Any) -> Recipe:
    return Recipe(title, "nncf", "channel", **settings)


# A new recipe is one entry here. Best bets first, for convolutional networks and transformers alike.
RECIPES: Final[Mapping[str, Recipe]] = MappingProxyType(
    {
        "nncf_wide_full_bias": _nncf(
            "int8, per channel, all layers, full bias correction", scope="wide", bias_correction="full"
        ),
        "nncf_wide_symmetric_full_bias": _nncf(
            "int8, per channel, symmetric activations, all layers, full bias correction",
            activations="symmetric",
            scope="wide",
            bias_correction="full",
        ),
        "nncf_smooth": _nncf("int8, per channel, smoothed, bias correction", smooth=True, bias_correction="fast"),
        "nncf_core": _nncf("int8, per channel, bias correction", bias_correction="fast"),
        "int8_channel_core_mse": _ort("int8, per channel, least-squares ranges", weights="channel", calibration="mse"),
        "int8_channel_core": _ort("int8, per channel", weights="channel"),
        "int8_channel_wide_mse": _ort(
            "int8, per channel, least-squares ranges, all layers", weights="channel", calibration="mse", scope="wide"
        ),
        "int8_channel_wide": _ort("int8, per channel, all layers", weights="channel", scope="wide"),
        "int8_channel_core_percentile": _ort(
            "int8, per channel, percentile ranges", weights="channel", calibration="percentile"
        ),
        "int8_channel_core_entropy": _ort(
            "int8, per channel, entropy ranges", weights="channel", calibration="entropy"
        ),
        "int8_channel_symmetric_core": _ort(
            "int8, per channel, symmetric activations", weights="channel", activations="symmetric"
        ),
        "nncf_wide": _nncf("int8, per channel, all layers, bias correction", scope="wide", bias_correction="fast"),
        "int8_tensor_core": _ort("int8, per tensor", weights="tensor"),
        "int8_tensor_wide": _ort("int8, per tensor, all layers", weights="tensor", scope="wide"),
    }
)


def recipes_for(transformer: bool, *, full_bias: bool = True) -> tuple[str, ...]:
    """The names of the recipes that make sense for a transformer, or for any other network; best bets first.

    Where full bias correction has been seen to fail (not `full_bias`), recipes with it come last.
    """
    names = [name for name, recipe in RECIPES.items() if recipe.suits(transformer=transformer)]
    return tuple(sorted(names, key=lambda name: not full_bias and RECIPES[name].bias_correction == "full"))
