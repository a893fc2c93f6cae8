"""Ranges of activations from histograms of a fixed size, however many values went into them."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

BINS = 2048
LEVELS = 256
# The share of values that a percentile range leaves out, half of it at each end.
LEFT_OUT = 1e-4
# Narrower than a quarter of what was seen is never tried: what is cut off there is no outlier any more.
NARROWEST = 0.25
STEPS = 48
Range = tuple[float, float]
Method = Literal["minmax", "percentile", "entropy", "mse"]


class Histogram:
    """Counts of values in equal bins of [low, high], which zero lies in.

    Exact zeros are not counted: every uint8 code has one, so they say nothing about the range, and after a ReLU there
    are so many that nothing else would count.
    """

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = min(low, 0.0), max(high, 0.0)
        self.counts = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Counts values of any shape; those outside count in the first and last bin."""
        if self.high <= self.low:
            return
        flat = values.reshape(-1)
        flat = flat[flat != 0]
        places = ((flat - np.float32(self.low)) * np.float32(BINS / (self.high - self.low))).astype(np.int32)
        self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    def range(self, method: Method) -> Range:
        """The range that `method` gives; zero lies in it. Without any value but zero: (low, high)."""
        if method == "minmax" or not self.counts.any():
            return self.low, self.high
        return {"percentile": self._percentile, "entropy": self._entropy, "mse": self._mse}[method]()

    def _percentile(self) -> Range:
        edges = np.linspace(self.low, self.high, BINS + 1)
        below = np.concatenate([[0], np.cumsum(self.counts)]) / self.counts.sum()
        first = int(np.searchsorted(below, LEFT_OUT / 2, side="right")) - 1
        last = int(np.searchsorted(below, 1 - LEFT_OUT / 2, side="left"))
        return min(float(edges[first]), 0.0), max(float(edges[last]), 0.0)

    def _mse(self) -> Range:
        """The ends move in turn, each to where the squared error of rounding and cutting off is least."""
        low, high = self.low, self.high
        for _ in range(2):
            high = min((high * s for s in _shares()), key=lambda end: self._squared_error(low, end))
            low = min((low * s for s in _shares()), key=lambda end: self._squared_error(end, high))
        return low, high

    def _squared_error(self, low: float, high: float) -> float:
        if high <= low:
            return float("inf")
        step = (high - low) / (LEVELS - 1)
        centers = self.low + (np.arange(BINS) + 0.5) * (self.high - self.low) / BINS
        rounded = np.clip(np.round((centers - low) / step), 0, LEVELS - 1) * step + low
        inside = (self.high - self.low) / BINS < step
        # Within one step the error is even: a twelfth of its square. Bins wider than a step cannot show rounding.
        error = (centers - rounded) ** 2
        if not inside:
            error = np.maximum(error, step**2 / 12)
        return float((error * self.counts).sum())

    def _entropy(self) -> Range:
        """The least Kullback-Leibler divergence of 256 levels from the values (Migacz 2017)."""
        zero = round(-self.low / (self.high - self.low) * BINS)
        best, result = float("inf"), (self.low, self.high)
        for share in _shares():
            first, last = zero - round(zero * share), zero + round((BINS - zero) * share)
            divergence = _divergence(self.counts, first, last)
            if divergence < best:
                best, result = divergence, (self.low * share, self.high * share)
        return result


def _shares() -> NDArray[np.float64]:
    return np.linspace(1.0, NARROWEST, STEPS)


def _divergence(counts: NDArray[np.int64], first: int, last: int) -> float:
    """KL(P | Q) of the bins first to last: P with what lies outside added at its ends, Q with 256 equal levels."""
    inside = counts[first:last].astype(np.float64)
    if inside.sum() == 0:
        return float("inf")
    wanted = inside.copy()
    wanted[0] += counts[:first].sum()
    wanted[-1] += counts[last:].sum()
    level = (np.arange(len(inside)) * LEVELS) // len(inside)
    filled = inside > 0
    sums = np.bincount(level, inside, LEVELS)
    sizes = np.bincount(level, filled.astype(np.float64), LEVELS)
    given = np.where(filled, sums[level] / np.maximum(sizes[level], 1), 0)
    some = wanted > 0
    p, q = wanted[some] / wanted.sum(), np.maximum(given[some] / given.sum(), 1e-9)
    return float((p * np.log(p / q)).sum())
