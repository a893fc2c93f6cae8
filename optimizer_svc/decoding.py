"""Whether JPEG fields may be decoded at a reduced scale: only where no prediction changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gramserve.images import jpeg
from gramserve.images.decode import Reduction
from gramserve.store.manifest import Label, Preprocessing
from optimizer_svc.dataset import load_tiles
from optimizer_svc.splits import Sample, Split
from optimizer_svc.tiles import TileSet

# Fewer pictures than this say too little about a decoder.
MIN_TILES = 20
_LARGEST_FIRST: tuple[Reduction, ...] = (8, 4, 2)


@dataclass(frozen=True, slots=True)
class DecodeCheck:
    """JPEG fields are decoded at 1/`reduction` of their size (1, 2, 4 or 8); `note` says why, as a sentence.

    `changed` of the `tiles` that were compared gave another class at the largest scale that was tried.
    """

    reduction: Reduction
    changed: int
    tiles: int
    note: str


def reductions(preprocessing: Preprocessing) -> tuple[Reduction, ...]:
    """The scales at which a tile still has at least as many pixels as the model's input, the smallest picture first."""
    return tuple(k for k in _LARGEST_FIRST if preprocessing.tile_px // k >= preprocessing.input_px)


def check_decoding(
    val: Split,
    labels: Sequence[Label],
    preprocessing: Preprocessing,
    logits: NDArray[np.float32],
    answer: Callable[[NDArray[np.uint8]], NDArray[np.float32]],
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> DecodeCheck:
    """Reads the JPEG tiles of `val` again at reduced scales and compares what the chosen candidate says of them.

    `logits` [N, C] are its answers to all N tiles of `val` decoded in full; `answer` gives its logits [M, C] for tiles
    uint8 [M, S, S, 3]. A reduction is allowed only when every class is the same; the largest such one is taken. Raises
    Stopped.
    """
    tried = reductions(preprocessing)
    if not tried:
        return DecodeCheck(1, 0, 0, "Fields are decoded in full: tiles are less than twice as large as the input.")
    places = [place for place, sample in enumerate(val.samples) if _is_jpeg(sample)]
    if len(places) < max(MIN_TILES, len(val.samples) / 2):
        note = (
            f"Fields are decoded in full: {len(places)} of {len(val.samples)} val tiles are JPEG files, too few to "
            "prove that decoding at a reduced scale changes nothing."
        )
        return DecodeCheck(1, 0, 0, note)
    part = replace(val, samples=tuple(val.samples[place] for place in places))
    before = logits[places].argmax(axis=1)
    first: int | None = None
    for reduction in tried:
        contract = preprocessing.model_copy(update={"decode_reduction": reduction})
        after = answer(load_tiles(part, labels, contract, should_stop=should_stop).tiles).argmax(axis=1)
        changed = int((after != before).sum())
        first = changed if first is None else first
        if not changed:
            kept = f"all {len(places)} JPEG val tiles kept their class"
            note = f"JPEG fields are decoded at 1/{reduction} of their size: {kept}."
            return DecodeCheck(reduction, first, len(places), note)
    note = (
        f"Fields are decoded in full: at 1/{tried[0]} of their size {first} of {len(places)} JPEG val tiles were given "
        "another class."
    )
    return DecodeCheck(1, first or 0, len(places), note)


def decoded(
    tiles: TileSet,
    split: Split,
    labels: Sequence[Label],
    preprocessing: Preprocessing,
    reduction: Reduction,
    *,
    should_stop: Callable[[], bool] = lambda: False,
) -> TileSet:
    """The `tiles` of `split` (decoded in full) as they are served: JPEG files at 1/`reduction` of their size.

    Their pixels are a little softer or sharper then, and what is fit to read is told by that. Raises Stopped.
    """
    if reduction == 1:
        return tiles
    contract = preprocessing.model_copy(update={"decode_reduction": reduction})
    return load_tiles(split, labels, contract, should_stop=should_stop)


def _is_jpeg(sample: Sample) -> bool:
    with sample.path.open("rb") as file:
        return file.read(len(jpeg.MAGIC)) == jpeg.MAGIC
