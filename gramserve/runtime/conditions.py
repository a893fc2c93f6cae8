"""How fit the tiles of a slide are for a call: which are blank, out of focus or unlike all that the model knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.energy import energy_of
from gramserve.runtime.look import distance_of
from gramserve.runtime.magnification import misscaled
from gramserve.runtime.quality import Mask, blank_and_unfocused
from gramserve.runtime.readings import Readings
from gramserve.store.manifest import Aggregation, Familiarity, Preprocessing


@dataclass(frozen=True, slots=True)
class Conditions:
    """Masks [N] of N tiles; no tile is more than one of blank, unfocused and misscaled (at the wrong magnification)."""

    blank: Mask
    unfocused: Mask
    misscaled: Mask
    strange: Mask

    @classmethod
    def good(cls, tiles: int) -> Conditions:
        """Nothing speaks against any of `tiles` tiles."""
        nothing = np.zeros(tiles, np.bool_)
        return cls(nothing, nothing, nothing, nothing)

    @property
    def assessed(self) -> Mask:
        """The tiles that are fit to read."""
        return ~(self.blank | self.unfocused | self.misscaled)

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many tiles are blank, unfocused and misscaled."""
        blank, unfocused, misscaled = map(np.count_nonzero, (self.blank, self.unfocused, self.misscaled))
        return int(blank), int(unfocused), int(misscaled)


def strange_tiles(energies: NDArray[np.float64], quality: NDArray[np.float32] | None, familiarity: Familiarity) -> Mask:
    """Which of N tiles are unlike the training data, by the energies [N] of their logits and by their look: a mask [N].

    `quality` [N, 6] are their measures, where there are any.
    """
    strange = energies > familiarity.max_energy
    if familiarity.look is not None and quality is not None:
        strange |= distance_of(quality, familiarity.look) > familiarity.look.max_distance
    return np.asarray(strange)


def conditions_of(readings: Readings, preprocessing: Preprocessing, rules: Aggregation) -> Conditions:
    """What the rules of an artifact say of the tiles of a slide; rules that it does not have say nothing."""
    blank = unfocused = wrong = strange = np.zeros(len(readings), np.bool_)
    if rules.quality is not None and readings.quality is not None:
        blank, unfocused = blank_and_unfocused(readings.quality, rules.quality)
    if rules.max_scale is not None:
        wrong = misscaled(readings.places, preprocessing, rules.max_scale) & ~(blank | unfocused)
    if rules.familiarity is not None and len(readings):
        strange = strange_tiles(energy_of(readings.logits), readings.quality, rules.familiarity)
    return Conditions(blank, unfocused, wrong, strange)
