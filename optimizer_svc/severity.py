"""How bad an error is for the patient: a missed organism and a Gram flip are very major."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gramserve.store.manifest import Label

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class VeryMajorErrors:
    """Which tiles [N] are very major errors: `missed` (an organism called background), `flipped` (the other Gram)."""

    missed: Mask
    flipped: Mask

    @property
    def any(self) -> Mask:
        """Tiles [N] with either error."""
        return np.asarray(self.missed | self.flipped)


def very_major_errors(
    predicted: NDArray[np.int64], targets: NDArray[np.int64], labels: Sequence[Label]
) -> VeryMajorErrors:
    """The very major errors of predictions [N] against targets [N], both indices into `labels`.

    A missed organism goes untreated; a Gram flip is treated with the wrong drug. The term is that of susceptibility
    testing (CLSI M23): a very major error is the one that fails the patient. An organism without a known Gram reaction
    takes no part in Gram flips.
    """
    organism = np.array([label.kind == "organism" for label in labels])
    gram = np.array([{"positive": 1, "negative": -1, None: 0}[label.gram] for label in labels])
    missed = organism[targets] & ~organism[predicted]
    flipped = gram[targets] * gram[predicted] == -1
    return VeryMajorErrors(missed, flipped)
