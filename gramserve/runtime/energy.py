"""How unlike all that a model knows a tile is, by the logits that it gave."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def energy_of(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The energy [N] of logits [N, C]: -log sum exp, high for tiles unlike the training data (Liu et al. 2020)."""
    exact = logits.astype(np.float64)
    highest = exact.max(axis=1)
    return np.asarray(-highest - np.log(np.exp(exact - highest[:, None]).sum(axis=1)))
