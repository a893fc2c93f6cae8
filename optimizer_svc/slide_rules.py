"""Which tiles are fit to read, which slides are unlike the data, how many tiles make a finding: set on val."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.aggregate import probabilities
from gramserve.runtime.conditions import strange_tiles
from gramserve.runtime.energy import energy_of
from gramserve.runtime.look import distance_of, look_of
from gramserve.runtime.quality import CONTRAST, SATURATION, blank_and_unfocused, focus_of, measure_quality
from gramserve.store.manifest import Familiarity, Label, Look, Preprocessing, QuantityBands, TileQuality
from optimizer_svc.quantity_bands import bands_for
from optimizer_svc.splits import Split
from optimizer_svc.stand_ins import blurred, glass, unfamiliar
from optimizer_svc.tiles import TileSet

TILE_PROBABILITY = 0.5
# Of tiles like those of val so many may be called out of focus or strange.
FALSE_ALARMS = 0.01
# A slide is strange when more of its tiles are: far more than false alarms make of a slide with many tiles.
MAX_STRANGE = 0.2
MAX_UNFIT = 0.5
# One tile of a field may be 1.5 times as large as the model's own (see `dataset.preprocessing_for`).
MAX_SCALE = 1.6
FOCUS_EXPONENTS = (0.0, 1.0, 2.0)
# Grey levels: the picture of clean glass has less contrast, and less colour where its white balance is fair.
MOST_CONTRAST_OF_GLASS, LEAST_SATURATION_OF_STAIN = 6.0, 6.0
STAND_IN_TILES = 64

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class StandIn:
    """Tiles of val that were spoilt on purpose, and the share of the `tiles` in which that was noticed."""

    name: str
    noticed: float
    tiles: int


@dataclass(frozen=True, slots=True)
class SlideRules:
    """What an artifact's aggregation gets beside the review thresholds, and how well it does.

    `blank`, `unfocused` and `strange` are the shares of val tiles that the rules turn away, each with rules set on the
    other half of val's groups; `notes` are sentences for the report.
    """

    quality: TileQuality
    familiarity: Familiarity
    quantity: QuantityBands | None
    tile_false_alarm: float
    tiles: int
    blank: float
    unfocused: float
    strange: float
    stand_ins: tuple[StandIn, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        rules = {
            name: None if (part := getattr(self, name)) is None else part.model_dump(mode="json")
            for name in ("quality", "familiarity", "quantity")
        }
        facts = {name: getattr(self, name) for name in ("tile_false_alarm", "tiles", "blank", "unfocused", "strange")}
        return {**rules, **facts, "stand_ins": [asdict(one) for one in self.stand_ins], "notes": list(self.notes)}


def fit_slide_rules(
    train: TileSet,
    val: TileSet,
    split: Split,
    logits: Logits,
    temperature: float,
    labels: Sequence[Label],
    preprocessing: Preprocessing,
    answer: Callable[[NDArray[np.uint8]], Logits],
    *,
    seed: int = 0,
) -> SlideRules:
    """The rules from the tiles of `split` (val): people labelled them, so they are fit to read and of the right kind.

    What tiles look like is taken from `train`, and how far one may be from that from val.

    `logits` [N, C] are the artifact's on them; `answer` gives its logits [M, C] for tiles uint8 [M, S, S, 3]. The same
    input always gives the same rules.
    """
    measured = measure_quality(val.tiles)
    sample = val.tiles[np.linspace(0, len(val) - 1, min(len(val), STAND_IN_TILES)).round().astype(int)]
    soft = measure_quality(blurred(sample, seed))
    energies = energy_of(logits)
    look = _look(measure_quality(train.tiles))
    quality, familiarity = _quality(measured, soft), _familiarity(energies, measured, look)
    blank, unfocused, strange = _turned_away(measured, soft, energies, look, split)
    bare = measure_quality(glass(sample.shape[1], seed))
    stand_ins = [
        StandIn("out of focus", float(blank_and_unfocused(soft, quality)[1].mean()), len(soft)),
        StandIn("clean glass", float(blank_and_unfocused(bare, quality)[0].mean()), len(bare)),
    ]
    for name, tiles in unfamiliar(sample, seed).items():
        noticed = strange_tiles(energy_of(answer(tiles)), measure_quality(tiles), familiarity)
        stand_ins.append(StandIn(name, float(noticed.mean()), len(tiles)))
    quantity, note = bands_for(preprocessing)
    return SlideRules(
        quality,
        familiarity,
        quantity,
        _tile_false_alarm(probabilities(logits, temperature), val.targets, labels),
        len(val),
        blank,
        unfocused,
        strange,
        tuple(stand_ins),
        (note, *_notes(stand_ins)),
    )


def _quality(measured: NDArray[np.float32], soft: NDArray[np.float32]) -> TileQuality:
    """The focus that notices most of the `soft` tiles while turning away FALSE_ALARMS of the `measured` ones."""
    thresholds = {exponent: _low(focus_of(measured, exponent)) for exponent in FOCUS_EXPONENTS}
    noticed = {exponent: (focus_of(soft, exponent) < least).mean() for exponent, least in thresholds.items()}
    best = max(FOCUS_EXPONENTS, key=lambda exponent: (noticed[exponent], exponent))
    return TileQuality(
        focus_exponent=best,
        min_focus=thresholds[best],
        # Half of what the emptiest tiles of val have: tiles that people label may well be nearly empty.
        min_contrast=min(0.5 * _low(measured[:, CONTRAST]), MOST_CONTRAST_OF_GLASS),
        min_saturation=max(_low(measured[:, SATURATION]), LEAST_SATURATION_OF_STAIN),
    )


def _look(measured: NDArray[np.float32]) -> Look:
    """Centre and spread of the looks of the training tiles; how far a tile may be is not said yet."""
    looks = look_of(measured)
    spread = np.cov(looks, rowvar=False)
    # Tiles that are all alike in something must not make any difference in it infinitely strange.
    spread += np.diag(0.01 * np.diag(spread) + 1e-4)
    whitening = np.linalg.inv(np.linalg.cholesky(spread)).T
    return Look(centre=tuple(looks.mean(axis=0)), whitening=tuple(map(tuple, whitening)), max_distance=0.0)


def _familiarity(energies: NDArray[np.float64], measured: NDArray[np.float32], look: Look) -> Familiarity:
    furthest = -_low(-distance_of(measured, look))
    return Familiarity(
        max_energy=-_low(-energies),
        max_strange=MAX_STRANGE,
        look=look.model_copy(update={"max_distance": furthest}),
    )


def _low(values: NDArray[Any]) -> float:
    """The value below which at most FALSE_ALARMS of `values` lie: the smallest where there are fewer than 100."""
    return float(np.sort(values)[math.floor(FALSE_ALARMS * len(values))])


def _turned_away(
    measured: NDArray[np.float32],
    soft: NDArray[np.float32],
    energies: NDArray[np.float64],
    look: Look,
    split: Split,
) -> tuple[float, float, float]:
    """Shares of tiles that are blank, unfocused and strange by rules of the other half of the groups, and back."""
    groups = np.unique([sample.group for sample in split.samples], return_inverse=True)[1]
    halves = groups % 2 == 0, groups % 2 == 1
    found = np.zeros((3, len(measured)), np.bool_)
    for here, there in (halves, halves[::-1]):
        if not here.any() or not there.any():
            continue
        found[0, here], found[1, here] = blank_and_unfocused(measured[here], _quality(measured[there], soft))
        familiarity = _familiarity(energies[there], measured[there], look)
        found[2, here] = strange_tiles(energies[here], measured[here], familiarity)
    blank, unfocused, strange = (float(share) for share in found.mean(axis=1))
    return blank, unfocused, strange


def _tile_false_alarm(chance: NDArray[np.float64], targets: NDArray[np.int64], labels: Sequence[Label]) -> float:
    """The share of tiles without organisms on which one class is seen, of the worst class.

    Half a tile is added to those seen, so that few tiles do not promise that it never happens (Jeffreys' prior). Where
    no label is background, the tiles of all other classes stand for empty ones.
    """
    empty = np.array([label.kind == "background" for label in labels])[targets]
    worst = 0.0
    for column, label in enumerate(labels):
        if label.kind == "organism":
            without = empty if empty.any() else targets != column
            seen = int((chance[without, column] >= TILE_PROBABILITY).sum())
            worst = max(worst, (seen + 0.5) / (int(without.sum()) + 1))
    return round(worst, 6)


def _notes(stand_ins: Sequence[StandIn]) -> list[str]:
    return [
        f"Only {one.noticed:.0%} of the tiles that were spoilt ({one.name}) were noticed: do not rely on this check."
        for one in stand_ins
        if one.noticed < 0.5
    ]
