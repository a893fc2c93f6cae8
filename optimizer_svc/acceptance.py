"""Whether a candidate is as safe as the checkpoint: paired predictions, severity first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.store.manifest import Label
from optimizer_svc.severity import VeryMajorErrors, very_major_errors
from optimizer_svc.statistics import (
    CONFIDENCE,
    mcnemar,
    paired_interval,
    pairs_needed,
    proportion_interval,
    smallest_margin,
)

Predictions = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked of a candidate; the margins are fractions of accuracy and of each class's recall.

    `confidence` is that of the intervals; where k candidates are looked at together it is 1 - 0.05 / k (Bonferroni).
    """

    margin: float = 0.01
    recall_margin: float = 0.05
    allow_unproved: bool = False
    confidence: float = CONFIDENCE


@dataclass(frozen=True, slots=True)
class Difference:
    """Candidate minus checkpoint over `tiles` tiles: `gained` only the candidate has right, `lost` only the checkpoint.

    `low` and `high` are the 95 % interval of the difference; `proved` that `low` is above minus the margin;
    `smallest_margin` is the least that so many tiles can prove at all, were no answer different.
    """

    tiles: int
    gained: int
    lost: int
    estimate: float
    low: float
    high: float
    margin: float
    proved: bool
    smallest_margin: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate against the checkpoint on one split.

    `accepted` follows from `failures` (sentences; empty when nothing speaks against it) and `proved`, or `proved` being
    waived: `overridden` says that it was. `very_major_*` count (missed organisms, Gram flips); `new_very_major` are the
    tiles that only the candidate gets very wrong, as places in the split.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    difference: Difference
    mcnemar_p: float
    recalls: dict[str, Difference]
    very_major_checkpoint: tuple[int, int]
    very_major_candidate: tuple[int, int]
    new_very_major: tuple[int, ...]
    smallest_margin: float
    tiles_needed: int
    failures: tuple[str, ...]
    proved: bool
    accepted: bool
    overridden: bool

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def compare(
    checkpoint: Predictions,
    candidate: Predictions,
    targets: Predictions,
    labels: Sequence[Label],
    rules: Rules,
) -> Comparison:
    """Holds the predictions [N] of a candidate against those of the checkpoint on the same tiles.

    Always required: accuracy and every class's recall fall by no more than their margins (a class may always lose one
    tile, or small classes would forbid what the whole split allows), and neither missed organisms nor Gram flips
    increase. Proved are the margins when the lower ends of all intervals lie above them. All of several claims need to
    hold, so their error level needs no correction (intersection-union test, Berger 1982).
    """
    before, after = checkpoint == targets, candidate == targets
    overall = _difference(before, after, rules.margin, rules.confidence)
    recalls = {
        label.name: _difference(before[of], after[of], rules.recall_margin, rules.confidence)
        for i, label in enumerate(labels)
        if (of := targets == i).any()
    }
    old, new = (very_major_errors(p, targets, labels) for p in (checkpoint, candidate))
    failures = tuple(_failures(overall, recalls, old, new))
    proved = overall.proved and all(recall.proved for recall in recalls.values())
    right, total = int(after.sum()), len(targets)
    low, high = proportion_interval(right, total)
    return Comparison(
        accuracy=right / total,
        accuracy_low=low,
        accuracy_high=high,
        difference=overall,
        mcnemar_p=mcnemar(overall.gained, overall.lost),
        recalls=recalls,
        very_major_checkpoint=_counts(old),
        very_major_candidate=_counts(new),
        new_very_major=tuple(int(i) for i in np.flatnonzero(new.any & ~old.any)),
        smallest_margin=overall.smallest_margin,
        tiles_needed=_tiles_needed(recalls, rules, total),
        failures=failures,
        proved=proved,
        accepted=not failures and (proved or rules.allow_unproved),
        overridden=not failures and not proved and rules.allow_unproved,
    )


def _difference(before: NDArray[np.bool_], after: NDArray[np.bool_], margin: float, confidence: float) -> Difference:
    gained, lost, total = int((after & ~before).sum()), int((before & ~after).sum()), len(before)
    low, high = paired_interval(gained, lost, total, confidence)
    return Difference(
        tiles=total,
        gained=gained,
        lost=lost,
        estimate=(gained - lost) / total,
        low=low,
        high=high,
        margin=margin,
        proved=low > -margin,
        smallest_margin=smallest_margin(total, confidence),
    )


def _failures(
    overall: Difference, recalls: dict[str, Difference], old: VeryMajorErrors, new: VeryMajorErrors
) -> list[str]:
    failures = []
    if _falls_short(overall):
        failures.append(f"accuracy falls by {-overall.estimate:.2%}, more than the margin of {overall.margin:.2%}")
    short = {name: r for name, r in recalls.items() if _falls_short(r) and r.lost - r.gained > 1}
    if short:
        falls = ", ".join(f"{name} by {-recall.estimate:.2%}" for name, recall in short.items())
        failures.append(f"recall falls by more than the margin of {next(iter(short.values())).margin:.2%}: {falls}")
    for what, (was, now) in zip(
        ("missed organisms", "Gram flips"), zip(_counts(old), _counts(new), strict=True), strict=True
    ):
        if now > was:
            failures.append(f"{what} increase from {was} to {now}")
    return failures


def _falls_short(difference: Difference) -> bool:
    # Fractions such as 1 of 100 against 0.01 must not fail by rounding.
    return -difference.estimate > difference.margin + 1e-9


def _counts(errors: VeryMajorErrors) -> tuple[int, int]:
    return int(errors.missed.sum()), int(errors.flipped.sum())


def _tiles_needed(recalls: dict[str, Difference], rules: Rules, total: int) -> int:
    """About how many tiles, in the present mix of classes, prove the margins when no prediction differs."""
    scarcest = min((recall.tiles for recall in recalls.values()), default=total)
    return max(pairs_needed(rules.margin), round(pairs_needed(rules.recall_margin) * total / scarcest))
