"""What every engine is: a model that is ready to turn tiles into logits."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import Reason, SlideFailed

INPUT = "tiles"
OUTPUT = "logits"


class Engine(Protocol):
    """A model that is ready to run, for one thread: engines are not shared."""

    @property
    def description(self) -> str:
        """Engine, version and settings for a person, such as "onnxruntime 1.32.0 threads=1"."""
        ...

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Tiles uint8 RGB [N, S, S, 3] to logits float32 [N, C]; raises SlideFailed (ENGINE_FAILED, OUT_OF_MEMORY)."""
        ...


def engine_failed() -> SlideFailed:
    """The engine could not run these tiles; what it said itself stays here, for it may name what nobody should read."""
    return SlideFailed(Reason.ENGINE_FAILED, "The engine failed on this slide.", retryable=True)


def out_of_memory() -> SlideFailed:
    """The engine could not get the memory that it needs."""
    return SlideFailed(Reason.OUT_OF_MEMORY, "There was not enough memory to run the model.", retryable=True)
