"""What a model said of tiles, counted: by the most probable label, and by how probable that was.

The same counts of the validation split stand in the artifact's manifest, so that a worker can tell when the slides of a
laboratory have moved away from what its model was accepted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.calls import BANDS
from gramserve.store.manifest import Label

REFERENCE = "reference"
"""Where the shares on the validation split stand in a manifest's `evaluation`."""


@dataclass(frozen=True, slots=True)
class Tally:
    """Tiles by label and by band; those with none are missing."""

    labels: dict[str, int]
    bands: dict[str, int]


def tally(probabilities: NDArray[np.float64], labels: Sequence[Label]) -> Tally:
    """Counts tiles by their calibrated probabilities [N, C], columns in the order of `labels`."""
    if len(probabilities) == 1:  # most slides of one tile: numpy takes six times as long for it
        row = probabilities[0].tolist()
        most = max(row)
        return Tally({labels[row.index(most)].name: 1}, {BANDS[min(int(most * len(BANDS)), len(BANDS) - 1)]: 1})
    best = np.bincount(probabilities.argmax(axis=1), minlength=len(labels))
    tenths = np.minimum(probabilities.max(axis=1, initial=0.0) * len(BANDS), len(BANDS) - 1).astype(np.int64)
    bands = np.bincount(tenths, minlength=len(BANDS))
    return Tally(
        {label.name: count for label, count in zip(labels, best.tolist(), strict=True) if count},
        {band: count for band, count in zip(BANDS, bands.tolist(), strict=True) if count},
    )


@dataclass(frozen=True, slots=True)
class Reference:
    """Shares (0 to 1) of the tiles of the validation split, by label and by band; empty where they are not known."""

    labels: Mapping[str, float]
    bands: Mapping[str, float]

    def to_json(self) -> dict[str, dict[str, float]]:
        """A JSON-ready dict; `of` reads it back."""
        return {"labels": dict(self.labels), "bands": dict(self.bands)}

    @classmethod
    def counted(cls, counts: Tally, labels: Sequence[Label]) -> Reference:
        """The shares that `counts` are of their sum; labels and bands without a tile have 0."""
        total = max(1, sum(counts.labels.values()))
        return cls(
            {label.name: counts.labels.get(label.name, 0) / total for label in labels},
            {band: counts.bands.get(band, 0) / total for band in BANDS},
        )

    @classmethod
    def of(cls, evaluation: Mapping[str, Any], labels: Sequence[Label]) -> Reference:
        """What the `evaluation` of a manifest says, of `labels` and bands only; empty where it says nothing."""
        said = evaluation.get(REFERENCE)
        found = said if isinstance(said, dict) else {}
        return cls(
            _shares(found.get("labels"), [label.name for label in labels]),
            _shares(found.get("bands"), BANDS),
        )


def _shares(said: Any, names: Sequence[str]) -> dict[str, float]:
    if not isinstance(said, dict):
        return {}
    shares = {name: said.get(name) for name in names}
    return {name: float(share) for name, share in shares.items() if isinstance(share, int | float) and 0 <= share <= 1}
