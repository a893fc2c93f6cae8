"""Calibration: ranges from streams of values in bounded memory."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from optimizer_svc.quantization.by_onnxruntime import symmetric
from optimizer_svc.quantization.calibration import Calibration, calibrate
from optimizer_svc.quantization.histograms import BINS, Histogram, Method
from optimizer_svc.spec import Stopped

METHODS: tuple[Method, ...] = ("minmax", "percentile", "entropy", "mse")


def histogram(values: NDArray[np.float32]) -> Histogram:
    made = Histogram(float(values.min()), float(values.max()))
    for part in np.array_split(values, 5):
        made.add(part)
    return made


@pytest.fixture(scope="module")
def outliers() -> NDArray[np.float32]:
    """A normal distribution and one value far away."""
    values = np.random.default_rng(0).normal(0, 1, 200_000).astype(np.float32)
    values[7] = 40
    return values


def test_min_max_keeps_everything(outliers: NDArray[np.float32]) -> None:
    low, high = histogram(outliers).range("minmax")
    assert low == outliers.min()
    assert high == 40


def test_a_percentile_leaves_one_value_of_ten_thousand_out(outliers: NDArray[np.float32]) -> None:
    low, high = histogram(outliers).range("percentile")
    width = (40 - float(outliers.min())) / BINS
    assert low == pytest.approx(np.quantile(outliers, 0.00005), abs=1.5 * width)
    assert high == pytest.approx(np.quantile(outliers, 0.99995), abs=1.5 * width)


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_an_outlier_is_cut_off_where_that_costs_less_than_coarse_steps(
    method: Method, outliers: NDArray[np.float32]
) -> None:
    low, high = histogram(outliers).range(method)
    assert high < 35
    assert low < -1


def test_the_least_squared_error_is_found_to_be_least() -> None:
    values = np.random.default_rng(1).laplace(0, 1, 300_000).astype(np.float32)

    def error(low: float, high: float) -> float:
        step = (high - low) / 255
        rounded = np.clip(np.round((values - low) / step), 0, 255) * step + low
        return float(((values - rounded) ** 2).mean())

    made = histogram(values)
    best = error(*made.range("mse"))
    assert all(best <= error(*made.range(other)) * 1.02 for other in METHODS)
    low, high = made.range("minmax")
    assert all(best <= error(low * share, high * share) * 1.02 for share in (0.4, 0.6, 0.8, 1))


@pytest.mark.parametrize("method", METHODS)
def test_values_that_fill_their_range_evenly_keep_it(method: Method) -> None:
    values = np.random.default_rng(2).uniform(0, 6, 100_000).astype(np.float32)
    low, high = histogram(values).range(method)
    assert low == 0
    assert high == pytest.approx(6, rel=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_range(method: Method) -> None:
    assert histogram(np.zeros(100, np.float32)).range(method) == (0, 0)


def test_zeros_of_a_relu_do_not_move_the_range() -> None:
    values = np.abs(np.random.default_rng(3).normal(0, 1, 50_000)).astype(np.float32)
    many = np.concatenate([values, np.zeros(500_000, np.float32)])
    for method in METHODS:
        assert histogram(many).range(method) == histogram(values).range(method)


def test_what_is_kept_does_not_grow_with_the_number_of_tiles() -> None:
    def size(kept: Calibration) -> int:
        return sum(h.counts.nbytes for h in kept.histograms.values()) + len(kept.extremes)

    sizes = []
    for tiles in (2, 40):
        kept = Calibration(["a", "b"])
        for _ in range(tiles):
            for name in ("a", "b"):
                kept.widen(name, np.linspace(-1, 1, 5000, dtype=np.float32))
        for _ in range(tiles):
            for name in ("a", "b"):
                kept.count(name, np.linspace(-1, 1, 5000, dtype=np.float32))
        sizes.append(size(kept))
    assert sizes[0] == sizes[1]


def doubling() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["tiles"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["pixels", "two"], ["doubled"]),
        helper.make_node("ReduceMean", ["doubled"], ["logits"], axes=[1, 2], keepdims=0),
    ]
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 3])],
        [numpy_helper.from_array(np.array(2, np.float32), "two")],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def test_calibration_sees_every_tile() -> None:
    tiles = np.full((9, 4, 4, 3), 10, np.uint8)
    tiles[8, 3, 3, 2] = 200
    ranges = calibrate(doubling(), ["doubled", "logits"], tiles, "minmax")
    assert ranges["doubled"] == (0, 400)
    assert calibrate(doubling(), ["doubled"], tiles, "mse")["doubled"][1] > 19


def test_calibration_stops_when_asked() -> None:
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        calibrate(doubling(), ["doubled"], np.zeros((9, 4, 4, 3), np.uint8), "minmax", lambda: next(asked))


@pytest.mark.parametrize(("low", "high", "zero"), [(0, 6, 0), (-1, 6, 128), (-6, 1, 128), (-3, 3, 128)])
def test_a_symmetric_range_has_its_zero_point_at_an_end_or_in_the_middle(low: float, high: float, zero: int) -> None:
    given_low, given_high = symmetric(low, high)
    assert given_low <= low
    assert given_high >= high - 1e-9
    assert round(-given_low / ((given_high - given_low) / 255)) == zero
