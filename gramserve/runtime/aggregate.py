"""The logits of a slide's tiles to its call, by the rules in the artifact's manifest (see docs/slide_call.md)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gramserve.calls import Call, Evidence, Finding, Outcome, ReviewReason, UnassessableReason
from gramserve.runtime.conditions import Conditions
from gramserve.runtime.preprocess import Place
from gramserve.runtime.quantity import quantity_of, tiles_needed
from gramserve.store.manifest import Aggregation, Label


def probabilities(logits: NDArray[np.float32], temperature: float) -> NDArray[np.float64]:
    """Calibrated tile probabilities [N, C] of logits [N, C]: softmax of logits / temperature."""
    scaled = logits.astype(np.float64) / temperature
    exponent = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(exponent / exponent.sum(axis=1, keepdims=True))


def aggregate(
    tile_probabilities: NDArray[np.float64],
    places: Sequence[Place],
    labels: Sequence[Label],
    rules: Aggregation,
    conditions: Conditions | None = None,
) -> Call:
    """The call of a slide from its tile probabilities [N, C] (columns in the order of `labels`) and their N places.

    `conditions` say which tiles are fit to read; without them all are. A class is a finding when as many assessed tiles
    as `tiles_needed` show it with `tile_probability` or more; its probability is the mean over its `top_k` best tiles.
    Findings stand though too little was fit to read; that nothing is there is only said of enough tiles.
    """
    conditions = conditions or Conditions.good(len(places))
    slide = _Slide(tile_probabilities, places, labels, rules, conditions)
    found, glimpsed = slide.classes()
    lacking = _lacking(conditions, rules)
    if not found and lacking is not None:
        return _unassessable(lacking, conditions, slide.findings(glimpsed))
    reasons = []
    suspected = [label for label in glimpsed if _is_new(label, found)]
    findings = slide.findings(found)
    unsure = any(finding.probability < rules.review_probability for finding in findings)
    if unsure or suspected or (not found and slide.may_hold_organisms()):
        reasons.append(ReviewReason.LOW_CONFIDENCE)
    if any(_conflict(one, other) for one, other in combinations(found, 2)):
        reasons.append(ReviewReason.CONFLICTING_FINDINGS)
    mixed = any(_two_organisms(one, other) for one, other in combinations(found, 2))
    if mixed and rules.review_mixed:
        reasons.append(ReviewReason.MIXED_GROWTH)
    if _is_strange(conditions, rules):
        reasons.append(ReviewReason.OUT_OF_DISTRIBUTION)
    if lacking is not None:
        reasons.append(ReviewReason.PARTLY_ASSESSABLE)
    seen = Outcome.MIXED_ORGANISMS_SEEN if mixed else Outcome.ORGANISMS_SEEN
    outcome = seen if found else Outcome.NO_ORGANISM_SEEN
    return _call(outcome, conditions, findings, reasons, suspected=slide.findings(suspected))


class _Slide:
    """The tiles of one slide under its rules: what is seen on those that are fit to read."""

    def __init__(
        self,
        tile_probabilities: NDArray[np.float64],
        places: Sequence[Place],
        labels: Sequence[Label],
        rules: Aggregation,
        conditions: Conditions,
    ) -> None:
        self._fit = np.flatnonzero(conditions.assessed)
        self._chance = tile_probabilities[self._fit]
        self._places = places
        self._labels = labels
        self._rules = rules
        self._needed = tiles_needed(len(places), len(self._fit), rules)
        self._counts = (self._chance >= rules.tile_probability).sum(axis=0)

    def classes(self) -> tuple[list[Label], list[Label]]:
        """The organism classes that are findings, and those that are seen on too few tiles for one."""
        seen = [
            (label, int(count))
            for label, count in zip(self._labels, self._counts, strict=True)
            if label.kind == "organism" and count
        ]
        found = [label for label, count in seen if count >= self._needed]
        return found, [label for label, count in seen if count < self._needed]

    def findings(self, classes: Iterable[Label]) -> tuple[Finding, ...]:
        """What is reported of `classes`, most probable first."""
        wanted = {label.name for label in classes}
        made = [self._finding(column) for column, label in enumerate(self._labels) if label.name in wanted]
        return tuple(sorted(made, key=lambda finding: -finding.probability))

    def may_hold_organisms(self) -> bool:
        """True when NO_ORGANISM_SEEN is not safe to say: some tile, or the best few together, may show an organism.

        It looks at the probability of any organism at all, because a tile with two of them can be sure of neither.
        """
        background = [column for column, label in enumerate(self._labels) if label.kind == "background"]
        organism = 1.0 - self._chance[:, background].sum(axis=1)
        doubt = _top_mean(organism, self._rules.top_k) > 1.0 - self._rules.review_probability
        return bool(doubt or organism.max() >= self._rules.tile_probability)

    def _finding(self, column: int) -> Finding:
        label, count = self._labels[column], int(self._counts[column])
        chance = self._chance[:, column]
        return Finding(
            label.name,
            _rounded(_top_mean(chance, self._rules.top_k)),
            count,
            self._evidence(chance, min(count, self._rules.max_evidence)),
            quantity_of(count, len(chance), self._rules.quantity),
            label.gram or "",
            label.morphology or "",
            label.arrangement or "",
        )

    def _evidence(self, chance: NDArray[np.float64], count: int) -> tuple[Evidence, ...]:
        """The `count` best tiles, equally good ones by their places: how tiles are dealt must not change a call."""
        if not count:
            return ()
        among = np.flatnonzero(chance >= np.partition(chance, -count)[-count])
        tiles = [(float(chance[tile]), self._places[self._fit[tile]]) for tile in among]
        tiles.sort(key=lambda tile: (-tile[0], tile[1].image_index, tile[1].box.y, tile[1].box.x))
        return tuple(_as_evidence(place, probability) for probability, place in tiles[:count])


def _lacking(conditions: Conditions, rules: Aggregation) -> UnassessableReason | None:
    """Why the tiles that are fit to read are too few to say that nothing is on the slide; None where they suffice."""
    total, (blank, unfocused, misscaled) = len(conditions.blank), conditions.counts
    unfit = unfocused + misscaled
    enough = total - blank - unfit >= rules.min_assessed_tiles
    if enough and unfit <= rules.max_unfit * (total - blank):
        return None
    if total < rules.min_assessed_tiles:
        return UnassessableReason.TOO_FEW_TILES
    if not enough and blank > max(unfocused, misscaled):
        return UnassessableReason.BLANK
    return UnassessableReason.WRONG_MAGNIFICATION if misscaled > unfocused else UnassessableReason.OUT_OF_FOCUS


def _unassessable(reason: UnassessableReason, conditions: Conditions, suspected: tuple[Finding, ...] = ()) -> Call:
    reasons = [ReviewReason.LOW_CONFIDENCE] if suspected else []
    reasons.append(ReviewReason.UNASSESSABLE)
    return _call(Outcome.UNASSESSABLE, conditions, (), reasons, suspected=suspected, unassessable_reason=reason)


def _call(
    outcome: Outcome,
    conditions: Conditions,
    findings: tuple[Finding, ...],
    reasons: Iterable[ReviewReason],
    *,
    suspected: tuple[Finding, ...] = (),
    unassessable_reason: UnassessableReason | None = None,
) -> Call:
    return Call(
        outcome,
        findings,
        len(conditions.blank),
        tuple(reasons),
        unassessable_reason,
        suspected,
        *conditions.counts,
    )


def _is_strange(conditions: Conditions, rules: Aggregation) -> bool:
    """True when too many of the assessed tiles are unlike those that the model was made with."""
    if rules.familiarity is None:
        return False
    strange = conditions.strange[conditions.assessed]
    return bool(np.count_nonzero(strange) > rules.familiarity.max_strange * len(strange))


def _as_evidence(place: Place, probability: float) -> Evidence:
    box = place.box
    return Evidence(place.image_index, box.x, box.y, box.width, box.height, _rounded(probability))


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


def _two_organisms(one: Label, other: Label) -> bool:
    """True when two findings cannot be one organism: both shapes are known, and they are not the same."""
    return one.morphology is not None and other.morphology is not None and one.morphology != other.morphology


def _top_mean(column: NDArray[np.float64], top_k: int) -> float:
    """The mean of the `top_k` largest values, or of all where there are fewer."""
    return float(np.sort(column)[-top_k:].mean())


def _rounded(probability: float) -> float:
    return round(float(probability), 6)
