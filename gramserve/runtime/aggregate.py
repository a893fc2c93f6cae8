"""The logits of a slide's tiles to its call, by the rules in the artifact's manifest (see docs/preprocessing.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gramserve.calls import Call, Evidence, Finding, Outcome, ReviewReason
from gramserve.runtime.preprocess import Place
from gramserve.store.manifest import Aggregation, Label

NO_TILES = "NO_TILES"


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Calibrated tile probabilities [N, C] of logits [N, C]: softmax of logits / temperature."""
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def aggregate(
    tile_probabilities: NDArray[np.float64], places: Sequence[Place], labels: Sequence[Label], rules: Aggregation
) -> Call:
    """The call of a slide from its tile probabilities [N, C] (columns in the order of `labels`) and their N places.

    A class is a finding when `min_tiles` tiles, or all where there are fewer, show it with `tile_probability` or more;
    its probability is the mean over its `top_k` best tiles. See docs/preprocessing.md for when a person must look.
    """
    if not places:
        return Call(Outcome.UNASSESSABLE, (), 0, unassessable_reason=NO_TILES)
    seen = tile_probabilities >= rules.tile_probability
    needed = min(rules.min_tiles, len(places))
    found: dict[str, Label] = {}
    glimpsed: list[Label] = []
    findings: list[Finding] = []
    for column, label in enumerate(labels):
        count = int(seen[:, column].sum())
        if label.kind == "background" or not count:
            continue
        if count < needed:
            glimpsed.append(label)
            continue
        found[label.name] = label
        findings.append(_finding(label.name, tile_probabilities[:, column], count, places, rules))
    findings.sort(key=lambda finding: -finding.probability)
    if findings:
        doubtful = any(finding.probability < rules.review_probability for finding in findings)
        doubtful = doubtful or any(_is_new(label, found.values()) for label in glimpsed)
    else:
        doubtful = _may_hold_organisms(tile_probabilities, labels, rules)
    reasons = [ReviewReason.LOW_CONFIDENCE] if doubtful else []
    if any(_conflict(one, other) for one, other in combinations(found.values(), 2)):
        reasons.append(ReviewReason.CONFLICTING_FINDINGS)
    outcome = Outcome.ORGANISMS_SEEN if findings else Outcome.NO_ORGANISM_SEEN
    return Call(outcome, tuple(findings), len(places), tuple(reasons))


def _finding(
    label: str, column: NDArray[np.float64], count: int, places: Sequence[Place], rules: Aggregation
) -> Finding:
    best = np.argsort(-column, kind="stable")
    evidence = tuple(_evidence(places[tile], column[tile]) for tile in best[: min(count, rules.max_evidence)])
    return Finding(label, _rounded(_top_mean(column, rules.top_k)), count, evidence)


def _evidence(place: Place, probability: float) -> Evidence:
    box = place.box
    return Evidence(place.image_index, box.x, box.y, box.width, box.height, _rounded(probability))


def _may_hold_organisms(tile_probabilities: NDArray[np.float64], labels: Sequence[Label], rules: Aggregation) -> bool:
    """True when NO_ORGANISM_SEEN is not safe to say: some tile, or the best few together, may show an organism.

    It looks at the probability of any organism at all, because a tile with two of them can be sure of neither.
    """
    background = [column for column, label in enumerate(labels) if label.kind == "background"]
    organism = 1.0 - tile_probabilities[:, background].sum(axis=1)
    doubt = _top_mean(organism, rules.top_k) > 1.0 - rules.review_probability
    return bool(doubt or organism.max() >= rules.tile_probability)


def _is_new(label: Label, found: Iterable[Label]) -> bool:
    """True when no finding has the Gram reaction and shape of `label`: it may be a second organism, seen once."""
    return all((label.gram, label.morphology) != (other.gram, other.morphology) for other in found)


def _conflict(one: Label, other: Label) -> bool:
    """True when two findings may be one organism read in two ways.

    Cocci and rods side by side are mixed growth, and no reason to doubt either. One shape in both Gram reactions is how
    over-decolourised or old Gram-positives look; cocci in two arrangements are a judgement for a person.
    """
    same_shape = one.morphology == other.morphology or one.morphology is None or other.morphology is None
    return same_shape and (one.gram != other.gram or one.arrangement != other.arrangement)


def _top_mean(column: NDArray[np.float64], top_k: int) -> float:
    """The mean of the `top_k` largest values, or of all where there are fewer."""
    return float(np.sort(column)[-top_k:].mean())


def _rounded(probability: float) -> float:
    return round(float(probability), 6)
