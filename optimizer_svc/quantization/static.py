"""An fp32 ONNX file to an int8 one in QDQ form, by one recipe."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray

from optimizer_svc.compact import compact
from optimizer_svc.quantization.by_nncf import quantize_by_nncf
from optimizer_svc.quantization.by_onnxruntime import quantize_by_onnxruntime
from optimizer_svc.quantization.graph import float_patches, with_activations
from optimizer_svc.quantization.recipe import CannotQuantize, Recipe
from optimizer_svc.spec import Stopped

TOOLS: Final = MappingProxyType({"onnxruntime": quantize_by_onnxruntime, "nncf": quantize_by_nncf})


def quantize(
    model: bytes,
    recipe: Recipe,
    calibration: NDArray[np.uint8],
    *,
    transformer: bool,
    should_stop: Callable[[], bool] = lambda: False,
) -> bytes:
    """The int8 QDQ file of an fp32 one that `export` made, calibrated on uint8 training tiles [N, S, S, 3].

    Static on purpose: dynamic quantization lets the neighbours in a batch change a tile's result. Calibration streams:
    its memory does not grow with N. The file runs on every engine. Raises CannotQuantize, Stopped.
    """
    try:
        with _silence():
            proto = onnx.load_model_from_string(model)
            made = TOOLS[recipe.tool](
                onnx.load_model_from_string(model),
                recipe,
                calibration,
                transformer=transformer,
                should_stop=should_stop,
            )
            made = float_patches(made, proto) if transformer else made
            return compact(with_activations(made, signed=transformer)).SerializeToString()
    except Stopped:
        raise
    except Exception as error:  # the tools raise many kinds
        raise CannotQuantize(f"{recipe.tool} cannot quantize this model so ({type(error).__name__})") from None


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Without what the tools print and log: what counts are the gates."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
