"""What a tile looks like whatever is on it: stain, light and sharpness, and how far that is from the training tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.quality import BLUE, CONTRAST, GREEN, RED, SHARPNESS
from gramserve.store.manifest import Look


def look_of(quality: NDArray[np.float32]) -> NDArray[np.float64]:
    """The look [N, 5] of measures [N, 6]: logarithms of sharpness and contrast, mean red, green and blue."""
    measured = quality.astype(np.float64)
    logarithms = np.log1p(measured[:, [SHARPNESS, CONTRAST]])
    return np.concatenate([logarithms, measured[:, [RED, GREEN, BLUE]]], axis=1)


def distance_of(quality: NDArray[np.float32], look: Look) -> NDArray[np.float64]:
    """How far the look of each of N tiles is from that of the training tiles, in standard deviations (Mahalanobis)."""
    away = (look_of(quality) - np.array(look.centre)) @ np.array(look.whitening)
    return np.asarray(np.sqrt((away * away).sum(axis=1)))
