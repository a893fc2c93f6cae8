"""Review thresholds with a promise: how often a tile is called wrongly and yet passes without a person's look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.aggregate import probabilities
from gramserve.store.manifest import Label
from optimizer_svc.severity import very_major_errors
from optimizer_svc.splits import Split

# A person looks at what is below this in any case. Val never shows what comes from another stain or camera, and doubt
# is all that such slides give: the promise may ask for more review than this, never for less.
LOWEST_REVIEW = 0.8
CURVE_BEGINS = 0.5
# Very major errors are allowed a fifth of the risk of all errors.
VERY_MAJOR_SHARE = 0.2
STEP = 1e-6  # the worker compares probabilities rounded to six decimals
CURVE_POINTS = 60

Probabilities = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Threshold:
    """A review threshold and what it does on the `tiles` (of `units` groups) that it was found with.

    `reviewed`: share of tiles below it. `risk`, `very_major_risk`: share that is wrong, very wrong, and passes; the
    `..._bound`s are the conformal upper bounds of their expectation. `held`, `very_major_held`: the bound is no larger
    than what was asked for; where it is not, `LOWEST_REVIEW` stands for it.
    """

    probability: float
    tiles: int
    units: int
    reviewed: float
    risk: float
    bound: float
    held: bool
    very_major_risk: float
    very_major_bound: float
    very_major_held: bool


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """What a threshold would do: share of tiles for review, and shares that are wrong, very wrong, and pass."""

    threshold: float
    reviewed: float
    risk: float
    very_major_risk: float


@dataclass(frozen=True, slots=True)
class Review:
    """The review thresholds of an artifact: `overall`, and of the specimen types that have enough tiles.

    `allowed` and `very_major_allowed` are the risks asked for (shares of tiles), `notes` sentences for the report.
    """

    allowed: float
    very_major_allowed: float
    overall: Threshold
    by_specimen: dict[str, Threshold]
    curve: tuple[CurvePoint, ...]
    notes: tuple[str, ...]

    @property
    def specimen_thresholds(self) -> dict[str, float]:
        """The threshold of each specimen type, for the manifest."""
        return {name: threshold.probability for name, threshold in self.by_specimen.items()}

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Tiles:
    """Top probability [N], whether the call is wrong or very wrong [N], and the group of each tile as a number [N]."""

    top: Probabilities
    wrong: Mask
    very_wrong: Mask
    group: NDArray[np.intp]

    def of(self, mask: Mask) -> _Tiles:
        return _Tiles(
            self.top[mask], self.wrong[mask], self.very_wrong[mask], np.unique(self.group[mask], return_inverse=True)[1]
        )

    @property
    def units(self) -> int:
        return int(self.group.max()) + 1

    @property
    def weight(self) -> Probabilities:
        """What a tile adds to the mean over groups of the share of tiles in a group."""
        return np.asarray(1.0 / (np.bincount(self.group)[self.group] * self.units))


def review_thresholds(
    logits: NDArray[np.float32],
    temperature: float,
    split: Split,
    labels: Sequence[Label],
    *,
    risk: float,
    floor: float = LOWEST_REVIEW,
) -> Review:
    """The smallest thresholds on the top probability of a tile that keep unreviewed errors below `risk`.

    `logits` [N, C] are the artifact's on the N tiles of `split` (val), `risk` (0 to 1) is the share of tiles that may
    be called wrongly and pass; for very major errors it is a fifth of that. Conformal risk control (Angelopoulos,
    Bates, Fisch, Lei and Schuster 2022): the loss of a group of tiles is the share of them that is wrong and passes. It
    never rises with the threshold, so the smallest one with n / (n + 1) R + 1 / (n + 1) <= risk, where R is the mean
    loss of n groups, keeps the expected loss of the next group below `risk`, whatever the distribution. Groups, because
    tiles of one patient or field are no independent witnesses; without groups.csv every tile is a group of its own.
    Specimen types with enough groups get thresholds of their own. None is below `floor`.
    """
    chance = np.round(probabilities(logits, temperature), 6)
    targets = np.array([sample.target for sample in split.samples], np.int64)
    called = chance.argmax(axis=1)
    groups = np.unique([sample.group for sample in split.samples], return_inverse=True)[1]
    tiles = _Tiles(chance.max(axis=1), called != targets, very_major_errors(called, targets, labels).any, groups)
    allowed = (risk, VERY_MAJOR_SHARE * risk)
    overall = _threshold(tiles, *allowed, floor=floor)
    notes = list(_notes(overall, *allowed))
    kinds = np.array([sample.specimen_type for sample in split.samples])
    by_specimen: dict[str, Threshold] = {}
    for kind in sorted(set(kinds.tolist()) - {""}):
        part = tiles.of(kinds == kind)
        if _units_needed(risk) > part.units:
            notes.append(
                f"Specimen type {kind} has {part.units} of the {_units_needed(risk)} {_unit(part)} that a threshold of "
                "its own needs; the overall one stands for it."
            )
            continue
        by_specimen[kind] = _threshold(part, *allowed, floor=floor, otherwise=overall)
    return Review(*allowed, overall, by_specimen, _curve(tiles), tuple(notes))


def _threshold(
    tiles: _Tiles, risk: float, very_major_risk: float, *, floor: float, otherwise: Threshold | None = None
) -> Threshold:
    """The threshold of `tiles`; where there are too few for very major errors, not below that of `otherwise`."""
    any_error, held = _smallest(tiles, tiles.wrong, risk)
    severe, severe_held = _smallest(tiles, tiles.very_wrong, very_major_risk)
    if not severe_held and otherwise is not None:
        severe = max(severe, otherwise.probability)
    probability = round(max(any_error, severe, floor), 6)
    passes = tiles.top >= probability
    measured, very_major = (float(tiles.weight[passes & bad].sum()) for bad in (tiles.wrong, tiles.very_wrong))
    return Threshold(
        probability=probability,
        tiles=len(tiles.top),
        units=tiles.units,
        reviewed=float(1 - passes.mean()),
        risk=measured,
        bound=_bound(measured, tiles.units),
        held=held,
        very_major_risk=very_major,
        very_major_bound=_bound(very_major, tiles.units),
        very_major_held=severe_held,
    )


def _smallest(tiles: _Tiles, bad: Mask, risk: float) -> tuple[float, bool]:
    """The smallest threshold whose conformal bound is at most `risk`, and True; else (LOWEST_REVIEW, False)."""
    order = np.argsort(-tiles.top[bad], kind="stable")
    top, passed = tiles.top[bad][order], np.cumsum(tiles.weight[bad][order])
    if _bound(0.0, tiles.units) > risk + 1e-12:
        return LOWEST_REVIEW, False
    # Fractions must not fail by rounding, such as 1 of 20 against 0.05.
    too_many = np.flatnonzero([_bound(float(share), tiles.units) > risk + 1e-12 for share in passed])
    if not len(too_many):
        return 0.0, True
    threshold = float(top[too_many[0]]) + STEP
    return (threshold, True) if threshold <= 1 else (1.0, False)


def _bound(risk: float, units: int) -> float:
    return (units * risk + 1) / (units + 1)


def _units_needed(risk: float) -> int:
    """How many groups can promise `risk` at all: 1 / (n + 1) must not be above it."""
    return math.ceil(1 / risk - 1e-9) - 1


def _unit(tiles: _Tiles | Threshold) -> str:
    count = len(tiles.top) if isinstance(tiles, _Tiles) else tiles.tiles
    return "tiles" if tiles.units == count else "groups"


def _curve(tiles: _Tiles) -> tuple[CurvePoint, ...]:
    levels = np.unique(np.concatenate([[CURVE_BEGINS, 1.0], tiles.top[tiles.top > CURVE_BEGINS]]))
    if len(levels) > CURVE_POINTS:
        levels = levels[np.linspace(0, len(levels) - 1, CURVE_POINTS).round().astype(int)]
    points = []
    for level in levels:
        passes = tiles.top >= level
        shares = (float(tiles.weight[passes & bad].sum()) for bad in (tiles.wrong, tiles.very_wrong))
        points.append(CurvePoint(float(level), float(1 - passes.mean()), *shares))
    return tuple(points)


def _notes(overall: Threshold, risk: float, very_major_risk: float) -> list[str]:
    notes = []
    for what, allowed, held in (
        ("errors", risk, overall.held),
        ("very major errors", very_major_risk, overall.very_major_held),
    ):
        needed = _units_needed(allowed)
        if overall.units < needed:
            notes.append(
                f"That unreviewed {what} stay below {allowed:.1%} takes at least {needed} {_unit(overall)} of val to "
                f"promise; there are {overall.units}. Review starts at no less than {LOWEST_REVIEW} instead, without "
                "that promise."
            )
        elif not held:
            notes.append(
                f"No threshold keeps unreviewed {what} below {allowed:.1%}: some are called with full certainty."
            )
    if overall.reviewed > 0.5:
        notes.append(f"This sends {overall.reviewed:.0%} of the tiles to a person: wrong calls are too certain here.")
    return notes
