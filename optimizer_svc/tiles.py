"""Labelled tiles in memory, as the model input sees them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class TileSet:
    """`tiles` uint8 RGB [N, S, S, 3] at the model's input size, `targets` int64 [N]: indices into the labels."""

    tiles: NDArray[np.uint8]
    targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.targets)
