"""What an engine said of the tiles of a slide, before a call is made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.preprocess import Place


@dataclass(frozen=True, slots=True)
class Readings:
    """Logits float32 [N, C] of N tiles, where each of them was cut, and the seconds spent inside the engine."""

    logits: NDArray[np.float32]
    places: tuple[Place, ...]
    inference_s: float

    def __len__(self) -> int:
        return len(self.places)
