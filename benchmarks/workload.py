"""The slides that a benchmark submits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Workload:
    """Slides of one field each for `model`; every field makes `tiles` tiles, the files of `fields` take turns."""

    name: str
    model: str
    fields: Sequence[Path]
    slides: int
    tiles: int

    def paths(self) -> list[Path]:
        """The file of each slide."""
        return [self.fields[number % len(self.fields)] for number in range(self.slides)]

    def of(self, slides: int) -> Workload:
        """The same with another number of slides."""
        return replace(self, slides=slides)
