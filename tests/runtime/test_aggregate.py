"""Tile probabilities to a call: what is reported, and when a person must look."""

from __future__ import annotations

import numpy as np
import pytest

from gramserve.calls import Call, Outcome, ReviewReason, UnassessableReason
from gramserve.images.tiles import Box
from gramserve.runtime.aggregate import aggregate, probabilities
from gramserve.runtime.preprocess import Place
from gramserve.samples import LABEL_ROLES, LABELS
from gramserve.store.manifest import Aggregation, Label

ROLES = tuple(Label(name=name, **role) for name, role in LABEL_ROLES.items())
RULES = Aggregation(tile_probability=0.6, min_tiles=2, top_k=3, review_probability=0.8, max_evidence=2)


def tile(**shares: float) -> list[float]:
    """One tile: the probabilities given, the rest background."""
    return [1 - sum(shares.values()), *(shares.get(label, 0.0) for label in LABELS[1:])]


def call(*tiles: list[float], rules: Aggregation = RULES, labels: tuple[Label, ...] = ROLES) -> Call:
    places = [Place(0, Box(10 * number, 0, 10, 10)) for number in range(len(tiles))]
    return aggregate(np.array(tiles).reshape(-1, len(labels)), places, labels, rules)


EMPTY = tile()
ROD = tile(GNR=0.95)


def test_an_empty_slide_is_called_so_without_review():
    assert call(*[EMPTY] * 5) == Call(Outcome.NO_ORGANISM_SEEN, (), 5)


def test_a_slide_without_tiles_is_unassessable():
    seen = call()
    assert (seen.outcome, seen.unassessable_reason) == (Outcome.UNASSESSABLE, UnassessableReason.TOO_FEW_TILES)


def test_a_class_on_enough_tiles_is_a_finding_with_the_mean_of_its_best_tiles():
    seen = call(tile(GNR=0.9), EMPTY, tile(GNR=0.99), tile(GNR=0.93), tile(GNR=0.7))
    assert seen.outcome is Outcome.ORGANISMS_SEEN
    (finding,) = seen.findings
    assert (finding.label, finding.tile_count) == ("GNR", 4)
    assert finding.probability == pytest.approx((0.9 + 0.99 + 0.93) / 3)
    assert not seen.review_required


def test_evidence_is_the_best_tiles_first_and_no_more_than_asked_for():
    (finding,) = call(tile(GNR=0.9), EMPTY, tile(GNR=0.99), tile(GNR=0.9)).findings
    assert [(e.x, e.probability) for e in finding.evidence] == [(20, 0.99), (0, 0.9)]


def test_evidence_holds_only_tiles_that_show_the_class():
    rules = RULES.model_copy(update={"max_evidence": 10})
    (finding,) = call(ROD, EMPTY, ROD, tile(GNR=0.3), rules=rules).findings
    assert len(finding.evidence) == finding.tile_count == 2


def test_fewer_tiles_than_the_rule_asks_for_must_all_show_the_class():
    assert call(ROD).findings[0].label == "GNR"
    assert not call(ROD, EMPTY).findings


def test_several_classes_are_reported_most_probable_first():
    seen = call(tile(GPC_CLUSTERS=0.9), ROD, tile(GPC_CLUSTERS=0.9), ROD, tile(GPC_CLUSTERS=0.9), ROD)
    assert [finding.label for finding in seen.findings] == ["GNR", "GPC_CLUSTERS"]


def test_mixed_growth_of_cocci_and_rods_is_no_conflict():
    seen = call(*[tile(GPC_CLUSTERS=0.95)] * 3, *[ROD] * 3)
    assert seen.outcome is Outcome.MIXED_ORGANISMS_SEEN
    assert len(seen.findings) == 2
    assert not seen.review_required


def test_rods_in_both_gram_reactions_are_a_conflict_for_they_may_be_one_organism():
    assert call(*[tile(GPR=0.95)] * 3, *[ROD] * 3).review_reasons == (ReviewReason.CONFLICTING_FINDINGS,)


def test_cocci_in_two_arrangements_are_a_conflict():
    seen = call(*[tile(GPC_CLUSTERS=0.95)] * 3, *[tile(GPC_PAIRS_CHAINS=0.95)] * 3)
    assert seen.review_reasons == (ReviewReason.CONFLICTING_FINDINGS,)


def test_an_unsure_finding_is_reviewed():
    assert call(*[tile(GNR=0.7)] * 3).review_reasons == (ReviewReason.LOW_CONFIDENCE,)


def test_one_clear_tile_among_many_empty_ones_is_reviewed_and_never_dropped_in_silence():
    seen = call(*[EMPTY] * 200, tile(GNR=0.61))
    assert seen.outcome is Outcome.NO_ORGANISM_SEEN
    assert seen.review_reasons == (ReviewReason.LOW_CONFIDENCE,)


def test_an_empty_call_is_reviewed_when_the_best_tiles_together_leave_doubt():
    assert call(*[EMPTY] * 20, *[tile(GNR=0.25)] * 3).review_reasons == (ReviewReason.LOW_CONFIDENCE,)
    assert not call(*[EMPTY] * 20, *[tile(GNR=0.15)] * 3).review_required


def test_an_organism_that_cannot_be_told_from_another_is_no_empty_slide():
    seen = call(*[EMPTY] * 5, tile(GNR=0.45, GPR=0.5))
    assert seen.outcome is Outcome.NO_ORGANISM_SEEN
    assert seen.review_required


def test_a_second_organism_on_one_tile_is_reviewed():
    assert call(*[tile(GPC_CLUSTERS=0.95)] * 9, ROD).review_reasons == (ReviewReason.LOW_CONFIDENCE,)


def test_a_stray_tile_of_the_same_cocci_in_another_arrangement_is_not():
    assert not call(*[tile(GPC_CLUSTERS=0.95)] * 9, tile(GPC_PAIRS_CHAINS=0.9)).review_required


def test_a_model_without_a_background_class_never_calls_a_slide_empty_without_review():
    seen = call([0.5, 0.5], [0.5, 0.5], labels=ROLES[1:3])
    assert seen.outcome is Outcome.NO_ORGANISM_SEEN
    assert seen.review_required


def test_temperature_softens_probabilities_and_huge_logits_stay_finite():
    logits = np.array([[2.0, 0.0], [1e4, -1e4]], np.float32)
    assert probabilities(logits, 1.0)[0, 0] == pytest.approx(1 / (1 + np.exp(-2)))
    assert probabilities(logits, 2.0)[0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert probabilities(logits, 1.0)[1].tolist() == [1.0, 0.0]


def test_a_call_survives_json():
    seen = call(*[ROD] * 3)
    assert Call.from_json(seen.to_json()) == seen
    assert all(
        type(value) is float for value in (seen.findings[0].probability, seen.findings[0].evidence[0].probability)
    )
