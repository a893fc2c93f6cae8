"""The ranges of a model's tensors over calibration tiles, one tile in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from gramserve.runtime.engines import INPUT
from optimizer_svc.quantization.histograms import Histogram, Method, Range
from optimizer_svc.spec import Stopped

# A histogram looks at so many values of a tensor of one tile at most, evenly over it.
MAX_VALUES = 65_536


class Calibration:
    """What is kept of the calibration tiles: a smallest and a largest value and one histogram for each tensor."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self.extremes: dict[str, Range] = dict.fromkeys(tensors, (np.inf, -np.inf))
        self.histograms: dict[str, Histogram] = {}

    def widen(self, name: str, values: NDArray[np.float32]) -> None:
        """First pass: the extremes."""
        low, high = self.extremes[name]
        self.extremes[name] = min(low, float(values.min())), max(high, float(values.max()))

    def count(self, name: str, values: NDArray[np.float32]) -> None:
        """Second pass: the values between the extremes."""
        histogram = self.histograms.get(name) or self.histograms.setdefault(name, Histogram(*self.extremes[name]))
        # An odd step, so that it does not fall on the same columns of every row.
        histogram.add(values.reshape(-1)[:: (values.size // MAX_VALUES) | 1])

    def ranges(self, method: Method) -> dict[str, Range]:
        """The range of every tensor; zero lies in all."""
        if method == "minmax":
            return {name: (min(low, 0.0), max(high, 0.0)) for name, (low, high) in self.extremes.items()}
        return {name: self.histograms[name].range(method) for name in self.extremes}


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    tiles: NDArray[np.uint8],
    method: Method,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Range]:
    """The range (low, high) of each float tensor over uint8 `tiles` [N, S, S, 3]. Raises Stopped.

    Memory holds the activations of one tile, however large N is. The model runs over the tiles once for minimum and
    maximum and a second time for histograms.
    """
    kept = Calibration(tensors)
    session = _session(model, tensors)
    for name, values in _activations(session, tensors, tiles, should_stop):
        kept.widen(name, values)
    if method != "minmax":
        for name, values in _activations(session, tensors, tiles, should_stop):
            kept.count(name, values)
    return kept.ranges(method)


def _session(model: onnx.ModelProto, tensors: Sequence[str]) -> ort.InferenceSession:
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    del opened.graph.output[:]
    opened.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(opened.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _activations(
    session: ort.InferenceSession,
    tensors: Sequence[str],
    tiles: NDArray[np.uint8],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    for i in range(len(tiles)):
        if should_stop():
            raise Stopped
        yield from zip(tensors, session.run(list(tensors), {INPUT: tiles[i : i + 1]}), strict=True)
