"""Paired comparison of two classifiers on the same tiles."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import binomtest, norm

CONFIDENCE = 0.95


def paired_interval(gained: int, lost: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Score interval of a difference of paired proportions: Tango 1998, Statistics in Medicine 17:891-908.

    `gained` pairs are right only with the new method, `lost` only with the old one, `total` are all pairs; the
    difference is new minus old, in -1 to 1. The interval keeps its coverage with few or no discordant pairs, where
    Wald's collapses to a point. With none it is +- z^2 / (total + z^2).
    """
    if not 0 <= gained + lost <= total or min(gained, lost) < 0 or total < 1:
        raise ValueError("counts must be 0 or more and sum up to at most `total`")
    z = float(norm.ppf(0.5 + confidence / 2))
    estimate = (gained - lost) / total

    def excess(difference: float) -> float:
        return _score(gained, lost, total, difference) ** 2 - z * z

    return _edge(excess, estimate, -1.0), _edge(excess, estimate, 1.0)


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided p-value of McNemar's exact test of whether gains are as likely as losses."""
    if gained + lost == 0:
        return 1.0
    return float(binomtest(gained, gained + lost, 0.5).pvalue)


def proportion_interval(successes: int, total: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Wilson's score interval of one proportion (Wilson 1927)."""
    if total < 1:
        return 0.0, 1.0
    interval = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def smallest_margin(total: int, confidence: float = CONFIDENCE) -> float:
    """The smallest non-inferiority margin that `total` pairs can prove at all: that of no discordant pair."""
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    return z2 / (total + z2)


def pairs_needed(margin: float, confidence: float = CONFIDENCE) -> int:
    """How many pairs prove `margin` (above 0, below 1) when no pair is discordant; the bound must beat the margin."""
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    return math.floor(z2 * (1 - margin) / margin) + 1


def median_interval(
    values: NDArray[np.float64], random: np.random.Generator, confidence: float = CONFIDENCE, draws: int = 1000
) -> tuple[float, float, float]:
    """(median, low, high) of `values` [N]: percentile bootstrap (Efron 1979) with `draws` resamples."""
    samples = np.median(random.choice(values, (draws, len(values))), axis=1)
    tail = (1 - confidence) / 2
    return float(np.median(values)), float(np.quantile(samples, tail)), float(np.quantile(samples, 1 - tail))


def _score(gained: int, lost: int, total: int, difference: float) -> float:
    """Tango's score statistic at a hypothetical `difference`, standard normal where that is the true one."""
    a = 2.0 * total
    b = -gained - lost + (2.0 * total - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    # The maximum-likelihood share of `lost` pairs under this difference.
    lost_share = max(0.0, (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a))
    variance = total * (2 * lost_share + difference * (1 - difference))
    distance = gained - lost - total * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _edge(excess: Callable[[float], float], estimate: float, end: float) -> float:
    """Where the score statistic crosses z between the estimate and `end` (-1 or 1)."""
    inner, outer = estimate, end * (1 - 1e-12)
    if abs(inner) >= abs(outer) and math.copysign(1, inner) == end:
        return end
    if excess(inner) >= 0:
        return estimate
    if excess(outer) <= 0:
        return end
    return float(brentq(excess, inner, outer, xtol=1e-12))
