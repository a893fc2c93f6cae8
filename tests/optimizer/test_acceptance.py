from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from gramserve.store.manifest import Label
from optimizer_svc.acceptance import Rules, compare
from optimizer_svc.severity import very_major_errors
from tests.optimizer.conftest import LABELS

BACKGROUND, GNR, CLUSTERS, CHAINS, GPR = range(5)
Ints = NDArray[np.int64]
predictions = arrays(np.int64, 60, elements=st.integers(0, 4))


def truth(each: int) -> Ints:
    return np.repeat(np.arange(5), each).astype(np.int64)


def with_errors(targets: Ints, **errors: int) -> Ints:
    """`targets` with the tiles at the given places called otherwise: i3=1 calls tile 3 class 1."""
    called = targets.copy()
    for place, label in errors.items():
        called[int(place[1:])] = label
    return called


@settings(max_examples=60)
@given(predictions, predictions)
def test_identical_predictions_differ_by_nothing_and_are_accepted(called: Ints, targets: Ints) -> None:
    result = compare(called, called, targets, LABELS, Rules(allow_unproved=True))
    assert (result.difference.estimate, result.difference.gained, result.difference.lost) == (0, 0, 0)
    assert result.mcnemar_p == 1
    assert result.failures == ()
    assert result.new_very_major == ()
    assert result.accepted


@settings(max_examples=60)
@given(predictions, predictions, predictions)
def test_a_difference_is_the_difference_of_the_accuracies_in_every_class(one: Ints, two: Ints, targets: Ints) -> None:
    result = compare(one, two, targets, LABELS, Rules())
    assert result.difference.estimate == pytest.approx((two == targets).mean() - (one == targets).mean())
    for name, recall in result.recalls.items():
        of = targets == [label.name for label in LABELS].index(name)
        assert recall.estimate == pytest.approx((two == targets)[of].mean() - (one == targets)[of].mean())


@settings(max_examples=60)
@given(predictions, predictions, predictions)
def test_nothing_with_more_missed_organisms_or_gram_flips_is_ever_accepted(one: Ints, two: Ints, targets: Ints) -> None:
    result = compare(one, two, targets, LABELS, Rules(margin=1, recall_margin=1, allow_unproved=True))
    worse = any(a > b for a, b in zip(result.very_major_candidate, result.very_major_checkpoint, strict=True))
    assert result.accepted == (not worse)


def test_a_missed_organism_and_a_gram_flip_are_very_major_and_nothing_else_is() -> None:
    targets = np.array([GNR, GNR, GPR, CLUSTERS, CLUSTERS, BACKGROUND, GNR], np.int64)
    called = np.array([BACKGROUND, GPR, GNR, CHAINS, BACKGROUND, GNR, GNR], np.int64)
    errors = very_major_errors(called, targets, LABELS)
    assert errors.missed.tolist() == [True, False, False, False, True, False, False]
    assert errors.flipped.tolist() == [False, True, True, False, False, False, False]
    assert errors.any.sum() == 4


def test_an_organism_of_unknown_gram_reaction_does_not_flip() -> None:
    labels = (Label(name="A", kind="organism", gram="positive"), Label(name="YEAST", kind="organism"))
    errors = very_major_errors(np.array([1, 0]), np.array([0, 1]), labels)
    assert not errors.any.any()


def test_one_gram_flip_refuses_a_candidate_that_is_more_accurate() -> None:
    targets = truth(100)
    checkpoint = with_errors(targets, i0=1, i1=1, i2=1, i3=1)
    candidate = with_errors(targets, i150=GPR)
    result = compare(checkpoint, candidate, targets, LABELS, Rules(allow_unproved=True))
    assert result.difference.estimate > 0
    assert result.failures == ("Gram flips increase from 0 to 1",)
    assert result.new_very_major == (150,)
    assert not result.accepted


def test_one_missed_organism_refuses_a_candidate() -> None:
    targets = truth(100)
    result = compare(targets, with_errors(targets, i450=BACKGROUND), targets, LABELS, Rules(allow_unproved=True))
    assert result.failures == ("missed organisms increase from 0 to 1",)


def test_accuracy_may_fall_by_the_margin_and_not_by_more() -> None:
    targets = truth(40)
    rules = Rules(margin=0.01, allow_unproved=True)
    two = with_errors(targets, i80=CHAINS, i120=CLUSTERS)
    three = with_errors(targets, i80=CHAINS, i81=CHAINS, i120=CLUSTERS)
    assert compare(targets, two, targets, LABELS, rules).accepted
    refused = compare(targets, three, targets, LABELS, rules)
    assert refused.failures == ("accuracy falls by 1.50%, more than the margin of 1.00%",)


def test_a_class_may_always_lose_one_tile_but_not_more_than_its_margin() -> None:
    targets = truth(14)
    rules = Rules(margin=0.05, recall_margin=0.05, allow_unproved=True)
    assert compare(targets, with_errors(targets, i30=CHAINS), targets, LABELS, rules).accepted
    refused = compare(targets, with_errors(targets, i30=CHAINS, i31=CHAINS), targets, LABELS, rules)
    assert refused.failures == ("recall falls by more than the margin of 5.00%: GPC_CLUSTERS by 14.29%",)


def test_too_few_tiles_prove_nothing_and_that_needs_an_override() -> None:
    targets = truth(20)
    asked = compare(targets, targets, targets, LABELS, Rules())
    assert (asked.failures, asked.proved, asked.accepted) == ((), False, False)
    assert asked.smallest_margin == pytest.approx(0.037, abs=0.001)
    assert asked.tiles_needed == 381
    waived = compare(targets, targets, targets, LABELS, Rules(allow_unproved=True))
    assert (waived.proved, waived.accepted, waived.overridden) == (False, True, True)
    assert not asked.overridden


def test_a_proved_candidate_needs_no_override_even_where_one_was_given() -> None:
    targets = truth(80)
    result = compare(targets, targets, targets, LABELS, Rules(allow_unproved=True))
    assert (result.proved, result.accepted, result.overridden) == (True, True, False)


def test_a_worse_candidate_is_not_accepted_by_an_override() -> None:
    targets = truth(20)
    worse = with_errors(targets, i25=BACKGROUND)
    result = compare(targets, worse, targets, LABELS, Rules(allow_unproved=True))
    assert (result.accepted, result.overridden) == (False, False)


def test_the_smallest_margin_is_said_for_the_whole_and_for_every_class() -> None:
    targets = np.concatenate([truth(30), np.full(50, GPR)])
    result = compare(targets, targets, targets, LABELS, Rules())
    assert (
        result.smallest_margin == result.difference.smallest_margin == pytest.approx(3.8415 / (200 + 3.8415), rel=1e-3)
    )
    margins = {name: recall.smallest_margin for name, recall in result.recalls.items()}
    assert margins["GPR"] == pytest.approx(3.8415 / (80 + 3.8415), rel=1e-3)
    assert margins["GNR"] == pytest.approx(3.8415 / (30 + 3.8415), rel=1e-3)


def test_enough_tiles_prove_both_margins() -> None:
    targets = truth(80)
    result = compare(targets, targets, targets, LABELS, Rules())
    assert (result.proved, result.accepted) == (True, True)
    assert all(recall.proved for recall in result.recalls.values())


def test_a_rare_class_keeps_the_whole_from_being_proved() -> None:
    targets = np.concatenate([truth(100), np.full(0, GPR)])
    targets = targets[: 4 * 100 + 10]
    result = compare(targets, targets, targets, LABELS, Rules())
    assert result.difference.proved
    assert not result.recalls["GPR"].proved
    assert not result.accepted
    assert result.tiles_needed > 2000


def test_a_class_without_tiles_is_left_out() -> None:
    targets = truth(10)[:20]
    assert set(compare(targets, targets, targets, LABELS, Rules()).recalls) == {"BACKGROUND", "GNR"}


def test_a_comparison_is_json() -> None:
    targets = truth(10)
    assert json.loads(json.dumps(compare(targets, targets, targets, LABELS, Rules()).to_json()))["accuracy"] == 1.0
