from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from optimizer_svc.conformal import LOWEST_REVIEW, Review, review_thresholds
from optimizer_svc.splits import Sample, Split
from tests.optimizer.conftest import LABELS

BACKGROUND, GNR, CLUSTERS, CHAINS, GPR = range(5)
Called = Sequence[tuple[int, int, float]]


def logits_of(called: Called) -> NDArray[np.float32]:
    """Logits [N, 5] whose softmax gives the label called (second) the probability (third)."""
    chance = np.array([[p if i == call else (1 - p) / 4 for i in range(5)] for _, call, p in called])
    return np.log(np.maximum(chance, 1e-30)).astype(np.float32)


def split_of(targets: Sequence[int], groups: Sequence[str] = (), kinds: Sequence[str] = ()) -> Split:
    groups = groups or [str(i) for i in range(len(targets))]
    kinds = kinds or [""] * len(targets)
    rows = zip(targets, groups, kinds, strict=True)
    return Split("val", tuple(Sample(Path("x"), t, g, "", k) for t, g, k in rows), "")


def review(
    called: Called,
    risk: float = 0.05,
    groups: Sequence[str] = (),
    kinds: Sequence[str] = (),
    floor: float = LOWEST_REVIEW,
) -> Review:
    split = split_of([target for target, _, _ in called], groups, kinds)
    return review_thresholds(logits_of(called), 1.0, split, LABELS, risk=risk, floor=floor)


def right(count: int, probability: float = 0.99) -> list[tuple[int, int, float]]:
    return [(GPR, GPR, probability)] * count


def test_the_threshold_lies_just_above_the_first_error_too_many() -> None:
    # 99 tiles: (99 R + 1) / 100 <= 0.05 leaves room for four errors; the fifth surest must go to a person.
    errors = [(CLUSTERS, CHAINS, p) for p in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)]
    made = review([*right(93), *errors], floor=0.5)
    assert made.overall.probability == pytest.approx(0.75, abs=1e-5)
    assert made.overall.probability > 0.75
    assert made.overall.held
    assert made.overall.risk == pytest.approx(4 / 99)
    assert made.overall.bound == pytest.approx(0.05)
    assert made.overall.reviewed == pytest.approx(2 / 99)


def test_no_promise_lets_a_doubtful_call_pass() -> None:
    errors = [(CLUSTERS, CHAINS, p) for p in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)]
    assert review([*right(93), *errors]).overall.probability == LOWEST_REVIEW


def test_very_major_errors_are_held_to_a_fifth_of_the_risk() -> None:
    flips = [(GNR, GPR, 0.93), (BACKGROUND, BACKGROUND, 0.6)]
    made = review([*right(150), *flips])
    assert made.very_major_allowed == pytest.approx(0.01)
    # 152 tiles leave room for none: (152 R + 1) / 153 <= 0.01 is false from one error on.
    assert made.overall.probability == pytest.approx(0.93, abs=1e-5)
    assert made.overall.very_major_risk == 0
    assert made.overall.very_major_held


def test_without_errors_review_starts_where_a_class_counts_as_seen() -> None:
    made = review(right(200))
    assert made.overall.probability == LOWEST_REVIEW
    assert made.notes == ()


def test_too_few_tiles_promise_nothing_and_keep_the_default() -> None:
    made = review([*right(17), (CLUSTERS, CHAINS, 0.99)])
    assert made.overall.probability == LOWEST_REVIEW
    assert not made.overall.held
    assert "takes at least 19 tiles of val to promise; there are 18" in made.notes[0]
    assert "takes at least 99 tiles" in made.notes[1]


def test_enough_tiles_for_errors_but_not_for_very_major_ones_keep_the_default_at_least() -> None:
    made = review(right(60))
    assert (made.overall.held, made.overall.very_major_held) == (True, False)
    assert made.overall.probability == LOWEST_REVIEW
    assert len(made.notes) == 1


def test_errors_of_full_certainty_are_said_to_be_beyond_any_threshold() -> None:
    made = review([*right(60), *[(CLUSTERS, CHAINS, 1.0)] * 10])
    assert made.overall.probability == 1.0
    assert not made.overall.held
    assert any("full certainty" in note for note in made.notes)
    assert any("86%" in note for note in made.notes)


def test_tiles_of_one_group_are_one_witness() -> None:
    called = [*right(190), *[(CLUSTERS, CHAINS, 0.97)] * 10]
    alone = review(called)
    assert alone.overall.units == 200
    # The same ten errors in one of twenty groups: that group is wrong throughout, and one in 20 is too much for 5 %.
    grouped = review(called, groups=[str(i // 10) for i in range(200)])
    assert grouped.overall.units == 20
    assert grouped.overall.probability > 0.97
    assert grouped.overall.bound == pytest.approx(1 / 21)
    assert "99 groups of val" in grouped.notes[0]


def test_specimen_types_with_enough_tiles_have_thresholds_of_their_own() -> None:
    blood, csf, rare = right(120), [*right(110), *[(CLUSTERS, CHAINS, 0.9)] * 10], right(5)
    kinds = ["blood"] * 120 + ["csf"] * 120 + ["rare"] * 5
    made = review([*blood, *csf, *rare], kinds=kinds)
    assert set(made.specimen_thresholds) == {"blood", "csf"}
    assert made.specimen_thresholds["blood"] == LOWEST_REVIEW
    assert made.specimen_thresholds["csf"] == pytest.approx(0.9, abs=1e-5)
    assert made.overall.probability == LOWEST_REVIEW
    assert made.notes == (
        "Specimen type rare has 5 of the 19 tiles that a threshold of its own needs; the overall one stands for it.",
    )


def test_a_type_with_too_few_tiles_for_very_major_errors_is_not_laxer_than_all_together() -> None:
    called = [*right(120), (GNR, GPR, 0.95), *right(30)]
    made = review(called, kinds=["blood"] * 121 + ["csf"] * 30)
    assert made.specimen_thresholds["csf"] == made.overall.probability == pytest.approx(0.95, abs=1e-5)


chances = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0.3, 0.999)), min_size=25, max_size=80)


@settings(max_examples=40)
@given(chances, st.floats(0.03, 0.4), st.floats(0.01, 0.3))
def test_a_smaller_risk_never_lowers_the_threshold_and_a_kept_promise_is_kept(
    called: Called, risk: float, more: float
) -> None:
    strict, lax = review(called, risk), review(called, risk + more)
    if strict.overall.held and strict.overall.very_major_held:
        assert strict.overall.probability >= lax.overall.probability
        assert strict.overall.bound <= risk + 1e-9
        assert strict.overall.very_major_bound <= risk / 5 + 1e-9
    risks = [(point.risk, -point.reviewed) for point in strict.curve]
    assert risks == sorted(risks, reverse=True)


def test_the_promise_holds_on_tiles_that_were_never_seen() -> None:
    """Thresholds of 300 small val splits, each judged on new tiles: the mean of the unreviewed errors is the risk."""
    random = np.random.default_rng(0)
    risk, passed = 0.1, []

    def draw(count: int) -> list[tuple[int, int, float]]:
        certain = random.uniform(0.5, 0.999, count)
        wrong = random.random(count) > certain**0.7 * 0.95  # over-confident, as networks are
        return [(CLUSTERS, CHAINS if bad else CLUSTERS, float(p)) for p, bad in zip(certain, wrong, strict=True)]

    for _ in range(300):
        threshold = review(draw(60), risk, floor=0.5).overall.probability
        passed.append(np.mean([target != call and p >= threshold for target, call, p in draw(400)]))
    assert np.mean(passed) <= risk + 3 * np.std(passed) / 300**0.5
    assert np.mean(passed) > risk / 2  # and no stricter than it must be


def test_a_review_is_json() -> None:
    made = review([*right(120), (GNR, GPR, 0.9)], kinds=["blood"] * 121)
    assert json.loads(json.dumps(made.to_json()))["by_specimen"]["blood"]["tiles"] == 121
