"""Static int8 recipes: an fp32 ONNX file and calibration tiles to an int8 one in QDQ form, and what rounding costs."""

from __future__ import annotations

from optimizer_svc.quantization.recipe import RECIPES, CannotQuantize, Recipe, recipes_for
from optimizer_svc.quantization.sensitivity import LayerSensitivity, keep_fp32, layer_sensitivity, logit_snr_db
from optimizer_svc.quantization.static import quantize

__all__ = [
    "RECIPES",
    "CannotQuantize",
    "LayerSensitivity",
    "Recipe",
    "keep_fp32",
    "layer_sensitivity",
    "logit_snr_db",
    "quantize",
    "recipes_for",
]
