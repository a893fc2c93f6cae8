"""What every candidate must pass on its engine: finite, repeatable, blind to its neighbours, no larger than before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import GramserveError
from gramserve.runtime.engines import open_engine
from gramserve.runtime.golden import check_golden
from gramserve.store.manifest import EngineSettings

BATCH = 8
# A tile's logits may differ between batch sizes by the rounding of fp32 sums, as a share of the largest logit.
INVARIANCE_TOLERANCE = 1e-4
# The graph and its names, beside the weights: a share of them, and what a small network needs too.
GRAPH_SHARE, GRAPH_BYTES = 0.05, 256 * 1024


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


def too_large(model: bytes, parameters: int) -> str:
    """Why the ONNX file is larger than the checkpoint's fp32 weights (4 bytes for each of its `parameters`); "" if not.

    5 % and 256 KiB more are allowed for the graph. More than that means that weights are stored twice.
    """
    weights = 4 * parameters
    if len(model) <= weights * (1 + GRAPH_SHARE) + GRAPH_BYTES:
        return ""
    return f"the file has {len(model):,} bytes, more than the {weights:,} of the checkpoint's weights"


def golden_holds(model: bytes, golden: bytes, settings: EngineSettings, *, labels: int, input_px: int) -> bool:
    """Whether the golden vectors (golden.npz) of a model hold on another engine: exactly what a worker checks."""
    try:
        engine = open_engine(model, settings)
        check_golden(engine, golden, labels=labels, input_px=input_px, batch_tiles=settings.batch_tiles)
    except GramserveError:
        return False
    return True


def other_engines(
    model: bytes,
    golden: bytes,
    chosen: EngineSettings,
    options: Sequence[EngineSettings],
    probe: NDArray[np.uint8],
    *,
    classes: int,
) -> tuple[EngineSettings, ...]:
    """Those of `options`, in their order, that may serve where the engine of `chosen` is not installed.

    One for each engine, without settings of its own that would change numbers; it passes the gates on `probe` (uint8
    [8 or more, S, S, 3]), and the golden vectors hold on it.
    """
    return tuple(
        option
        for option in options
        if option.name != chosen.name
        and not option.settings
        and not failed_gate(model, option, probe, classes)
        and golden_holds(model, golden, option, labels=classes, input_px=probe.shape[1])
    )
