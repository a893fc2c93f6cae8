"""What every candidate must pass before its accuracy counts: finite, repeatable, blind to its neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import GramserveError
from gramserve.runtime.engines import open_engine
from gramserve.store.manifest import EngineSettings

BATCH = 8
# A tile's logits may differ between batch sizes by the rounding of fp32 sums, as a share of the largest logit.
INVARIANCE_TOLERANCE = 1e-4


def failed_gate(model: bytes, settings: EngineSettings, probe: NDArray[np.uint8], classes: int) -> str:
    """The first gate that `model` fails on `probe` tiles (uint8 [8 or more, S, S, 3]), as a sentence; "" when none.

    Determinism: two engines give the very same numbers. Batch invariance: a tile's logits are the same alone and with
    seven different neighbours, or a slide's call would depend on its batch.
    """
    try:
        first, second = (open_engine(model, settings) for _ in range(2))
        together = first.run(probe[:BATCH])
        again = second.run(probe[:BATCH])
        alone = np.concatenate([first.run(probe[i : i + 1]) for i in range(len(together))])
        turned = first.run(probe[:BATCH][::-1].copy())[::-1]
    except GramserveError as error:
        return f"the engine cannot run it: {error.message}"
    if together.shape != (len(probe[:BATCH]), classes) or not np.isfinite(together).all():
        return "its logits are not one finite number for each label"
    if not np.array_equal(together, again):
        return "two runs give different numbers"
    scale = max(1e-6, float(np.abs(together).max()))
    for other in (alone, turned):
        difference = float(np.abs(together - other).max()) / scale
        if difference > INVARIANCE_TOLERANCE:
            return f"a tile's result depends on its neighbours in the batch (by {difference:.1e} of the largest logit)"
    return ""
