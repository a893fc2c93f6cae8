"""Which tiles show bacteria much larger, smaller or coarser than those that the model learned from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gramserve.runtime.preprocess import Place
from gramserve.runtime.quality import Mask
from gramserve.store.manifest import Preprocessing


def misscaled(places: Sequence[Place], preprocessing: Preprocessing, max_scale: float) -> Mask:
    """Which of N tiles are at the wrong magnification, by how many pixels they were cut from: a mask [N].

    A model that knows its microns per pixel has tiles of whole slides cut to its own scale: they are wrong when they
    have so few pixels that they are more than `max_scale` times as coarse as its own. Where nothing is known of
    microns, tiles of a grid are as large as the model's own, and wrong when they are more than `max_scale` times as
    large or as small. Tiles of a "single" contract vary in size by nature: nothing is said of them.
    """
    edges = np.array([place.box.width for place in places], np.float64)
    if preprocessing.mpp is not None:
        coarseness = np.maximum(preprocessing.input_px / edges, 1.0)
        own = max(preprocessing.input_px / preprocessing.tile_px, 1.0)
        return np.asarray(coarseness > max_scale * own)
    if preprocessing.tiling == "single":
        return np.zeros(len(edges), np.bool_)
    scale = edges / preprocessing.tile_px
    return np.asarray((scale > max_scale) | (scale < 1 / max_scale))
