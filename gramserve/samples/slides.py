"""Synthetic tiles and slides by label and seed."""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gramserve.samples.field import Field, render_field
from gramserve.samples.labels import BACKGROUND, LABELS, ORGANISMS
from gramserve.samples.style import Style, draw_style

PX_PER_UM = 13.0  # a 100x objective on a usual camera; each preparation varies by 12 %


@dataclass(frozen=True, slots=True)
class Sample:
    """One field with at least one group of `label` in its middle, or none at all for BACKGROUND."""

    label: str
    seed: int
    width: int = 160
    height: int = 160

    def render(self) -> NDArray[np.uint8]:
        """The picture: uint8 RGB [height, width, 3]; the same for the same sample."""
        if self.label not in LABELS:
            raise ValueError(f"no such label: {self.label}")
        rng = seeded(self.seed, self.label)
        style = draw_style(rng, PX_PER_UM)
        groups: list[tuple[str, float, float]] = []
        if self.label != BACKGROUND:
            middle = (self.label, self.width * rng.uniform(0.35, 0.65), self.height * rng.uniform(0.35, 0.65))
            more = place_groups(
                rng, (self.label,), self.width, self.height, per_megapixel=rng.uniform(5, 50), at_least=0
            )
            groups = [middle, *more]
        return render_field(rng, style, groups, self.width, self.height).image


def slide(
    seed: int, truth: Collection[str], *, fields: int = 4, width: int = 640, height: int = 480
) -> list[NDArray[np.uint8]]:
    """The fields of one slide: uint8 RGB [height, width, 3] each, all of one preparation.

    Every organism of `truth` (none, one or several) lies on every field in at least four places, as it does where a
    microscopist would take a picture; nothing else grows.
    """
    rng = seeded(seed, "slide")
    style = draw_style(rng, PX_PER_UM)
    labels = [label for label in ORGANISMS if label in truth]
    if unknown := set(truth) - set(ORGANISMS):
        raise ValueError(f"no such organisms: {sorted(unknown)}")
    return [field_of(rng, style, labels, width, height).image for _ in range(fields)]


def field_of(rng: np.random.Generator, style: Style, labels: Sequence[str], width: int, height: int) -> Field:
    """One field of a preparation with every one of the organisms `labels` on it in at least four places."""
    groups = place_groups(rng, labels, width, height, per_megapixel=rng.uniform(25, 70), at_least=4)
    return render_field(rng, style, groups, width, height)


def place_groups(
    rng: np.random.Generator, labels: Sequence[str], width: int, height: int, *, per_megapixel: float, at_least: int
) -> list[tuple[str, float, float]]:
    """Where groups lie: (label, x, y), at random but not on top of each other where there is room."""
    groups: list[tuple[str, float, float]] = []
    apart = (5 * PX_PER_UM) ** 2
    for label in labels:
        for _ in range(max(at_least, int(rng.poisson(per_megapixel * width * height / 1e6)))):
            for _attempt in range(8):
                x, y = rng.uniform(0.03, 0.97) * width, rng.uniform(0.03, 0.97) * height
                if all((x - ox) ** 2 + (y - oy) ** 2 > apart for _label, ox, oy in groups):
                    break
            groups.append((label, x, y))
    return groups


def seeded(seed: int, name: str) -> np.random.Generator:
    """A generator of its own for each (seed, name)."""
    return np.random.default_rng([seed, zlib.crc32(name.encode())])
