"""Temperature scaling: probabilities that mean what they say."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar

from gramserve.runtime.aggregate import probabilities

BINS = 15
LOWEST, HIGHEST = 0.2, 10.0


@dataclass(frozen=True, slots=True)
class Bin:
    """Tiles whose top probability lies in one of equally wide bins: how many, mean probability and accuracy."""

    tiles: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Expected calibration error (0 to 1), mean cross entropy in nats, and the bins that have tiles."""

    ece: float
    nll: float
    bins: tuple[Bin, ...]


def fit_temperature(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """The temperature that makes softmax(logits / temperature) fit the targets best (Guo et al. 2017).

    `logits` [N, C], `targets` [N]. The targets are softened as Platt (1999) does, by 1 / (N + 2): without it a split
    with no error at all would ask for boundless certainty. The result lies in 0.2 to 10.
    """
    count, classes = logits.shape
    doubt = 1 / (count + 2)
    soft = np.full((count, classes), doubt / (classes - 1))
    soft[np.arange(count), targets] = 1 - doubt

    def loss(log_temperature: float) -> float:
        chance = probabilities(logits, math.exp(log_temperature))
        return float(-(soft * np.log(np.clip(chance, 1e-12, 1))).sum(axis=1).mean())

    found = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return round(math.exp(float(found.x)), 4)


def reliability(logits: NDArray[np.float32], targets: NDArray[np.int64], temperature: float) -> Reliability:
    """How well probabilities and frequencies agree: ECE over 15 bins (Naeini, Cooper and Hauskrecht 2015)."""
    chance = probabilities(logits, temperature)
    confidence, right = chance.max(axis=1), chance.argmax(axis=1) == targets
    which = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = tuple(
        Bin(int(of.sum()), float(confidence[of].mean()), float(right[of].mean()))
        for i in range(BINS)
        if (of := which == i).any()
    )
    ece = sum(b.tiles * abs(b.confidence - b.accuracy) for b in bins) / len(targets)
    nll = -np.log(np.clip(chance[np.arange(len(targets)), targets], 1e-12, 1)).mean()
    return Reliability(float(ece), float(nll), bins)
