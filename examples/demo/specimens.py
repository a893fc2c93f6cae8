"""The slides of the demo and what truly lies on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gramserve.samples import ORGANISMS, encode, slide

# Four of each organism, four without any, four with two.
TRUTHS: tuple[frozenset[str], ...] = (
    *(frozenset({organism}) for organism in ORGANISMS for _ in range(4)),
    *(frozenset[str]() for _ in range(4)),
    frozenset({"GNR", "GPC_CLUSTERS"}),
    frozenset({"GNR", "GPR"}),
    frozenset({"GPC_PAIRS_CHAINS", "GNR"}),
    frozenset({"GPR", "GPC_CLUSTERS"}),
)
FIELDS = 4


@dataclass(frozen=True, slots=True)
class Specimen:
    """One slide: its id, the organisms on it, the pictures of its fields."""

    slide_id: str
    truth: frozenset[str]
    fields: tuple[Path, ...]


def write_specimens(folder: Path, *, seed: int) -> list[Specimen]:
    """Draws all slides of the demo into `folder`, a folder each; the same for the same seed."""
    specimens = []
    for number, truth in enumerate(TRUTHS, start=1):
        slide_id = f"S-{number:02d}"
        place = folder / slide_id
        place.mkdir(parents=True)
        fields = []
        for index, image in enumerate(slide(seed + number, truth, fields=FIELDS), start=1):
            path = place / f"field-{index}.jpg"
            path.write_bytes(encode(image, "jpg"))
            fields.append(path)
        specimens.append(Specimen(slide_id, truth, tuple(fields)))
    return specimens
