from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import binom, chi2, multinomial

from optimizer_svc.statistics import (
    mcnemar,
    median_interval,
    paired_interval,
    pairs_needed,
    proportion_interval,
    smallest_margin,
)

Z2 = 1.959963984540054**2


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, int, int]:
    total = draw(st.integers(1, 400))
    gained = draw(st.integers(0, total))
    return gained, draw(st.integers(0, total - gained)), total


@pytest.mark.parametrize("total", [1, 14, 102, 1000])
def test_without_discordant_pairs_the_interval_has_its_closed_form(total: int) -> None:
    # With no discordant pair Tango's score is -n d / sqrt(n d (1 - d)); it equals z at d = z^2 / (n + z^2).
    low, high = paired_interval(0, 0, total)
    assert high == pytest.approx(Z2 / (total + Z2), abs=1e-9)
    assert low == pytest.approx(-high, abs=1e-9)


@settings(max_examples=200)
@given(pairs())
def test_the_interval_holds_the_estimate_and_mirrors_when_the_classifiers_swap(case: tuple[int, int, int]) -> None:
    gained, lost, total = case
    low, high = paired_interval(gained, lost, total)
    assert -1 <= low <= (gained - lost) / total <= high <= 1
    mirrored = paired_interval(lost, gained, total)
    assert mirrored == pytest.approx((-high, -low), abs=1e-8)


@settings(max_examples=60)
@given(pairs())
def test_at_its_ends_the_score_statistic_is_z_with_the_likelihood_maximised_numerically(
    case: tuple[int, int, int],
) -> None:
    """Tango's closed form of the nuisance parameter against a plain numerical maximum of the likelihood."""
    gained, lost, total = case
    for end in paired_interval(gained, lost, total):
        if abs(end) > 1 - 1e-6 or abs(end - (gained - lost) / total) < 1e-9:
            continue

        def loss(share: float, end: float = end) -> float:
            same = 1 - 2 * share - end
            terms = ((gained, share + end), (lost, share), (total - gained - lost, same))
            return -sum(n * math.log(max(p, 1e-300)) for n, p in terms if n)

        bounds = (max(0.0, -end), (1 - end) / 2)
        share = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-13}).x
        variance = (2 * share + end - end * end) / total
        score = ((gained - lost) / total - end) ** 2 / variance
        assert score == pytest.approx(Z2, rel=2e-3)


def outcomes(total: int, gained: float, lost: float) -> Iterator[tuple[int, int, float]]:
    """Every outcome of `total` pairs (gained, lost) with its probability; those rarer than 1e-9 are left out."""
    law = multinomial(total, [gained, lost, 1 - gained - lost])
    for a in range(total + 1):
        for b in range(total - a + 1):
            chance = float(law.pmf([a, b, total - a - b]))
            if chance > 1e-9:
                yield a, b, chance


@pytest.mark.parametrize(("gained", "lost"), [(0.02, 0.02), (0.05, 0.1), (0.01, 0.06), (0.2, 0.25)])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(gained: float, lost: float) -> None:
    """Exact, over all outcomes of 60 pairs: with few discordant pairs it may be too wide, never much too narrow."""
    covered = 0.0
    for a, b, chance in outcomes(60, gained, lost):
        low, high = paired_interval(a, b, 60)
        covered += chance * (low <= gained - lost <= high)
    assert 0.94 <= covered <= 0.999


@pytest.mark.parametrize(("total", "lost"), [(60, 0.05), (60, 0.1), (150, 0.05)])
def test_a_candidate_that_is_worse_by_the_margin_is_seldom_proved_safe(total: int, lost: float) -> None:
    """Exact error of the non-inferiority claim where the true loss is just the margin of 5 points: 2.5 % at most."""
    margin = 0.05
    wrongly = sum(
        chance for a, b, chance in outcomes(total, lost - margin, lost) if paired_interval(a, b, total)[0] > -margin
    )
    assert wrongly <= 0.03


@pytest.mark.parametrize("discordant", [0.04, 0.1, 0.3])
def test_mcnemar_sees_a_difference_where_there_is_none_at_most_once_in_twenty(discordant: float) -> None:
    share = discordant / 2
    assert sum(chance for a, b, chance in outcomes(60, share, share) if mcnemar(a, b) <= 0.05) <= 0.05


@settings(max_examples=50)
@given(st.integers(20, 500), st.integers(0, 10))
def test_more_lost_tiles_never_raise_the_lower_end(total: int, lost: int) -> None:
    assert paired_interval(0, lost + 1, total)[0] <= paired_interval(0, lost, total)[0]


@pytest.mark.parametrize("case", [(-1, 0, 5), (3, 3, 5), (0, 0, 0)])
def test_impossible_counts_are_refused(case: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="counts"):
        paired_interval(*case)


@pytest.mark.parametrize(("gained", "lost"), [(0, 1), (1, 0), (3, 10), (5, 5), (0, 12)])
def test_mcnemars_exact_p_is_the_two_sided_binomial_tail(gained: int, lost: int) -> None:
    tail = 2 * binom.cdf(min(gained, lost), gained + lost, 0.5)
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, float(tail)))


def test_without_discordant_pairs_nothing_speaks_against_equality() -> None:
    assert mcnemar(0, 0) == 1.0


def test_mcnemars_exact_p_is_near_its_asymptotic_form_when_there_are_many() -> None:
    asymptotic = float(chi2.sf((abs(140 - 100) - 1) ** 2 / 240, 1))
    assert mcnemar(100, 140) == pytest.approx(asymptotic, rel=0.02)


def test_wilsons_interval_by_hand() -> None:
    p, n = 0.9, 100
    centre = (p + Z2 / (2 * n)) / (1 + Z2 / n)
    half = math.sqrt(Z2 * (p * (1 - p) / n + Z2 / (4 * n * n))) / (1 + Z2 / n)
    assert proportion_interval(90, 100) == pytest.approx((centre - half, centre + half))
    assert proportion_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("margin", [0.005, 0.01, 0.02, 0.05, 0.2])
def test_the_tiles_needed_for_a_margin_just_prove_it(margin: float) -> None:
    needed = pairs_needed(margin)
    assert paired_interval(0, 0, needed)[0] > -margin
    assert paired_interval(0, 0, needed - 1)[0] <= -margin + 1e-9
    assert smallest_margin(needed) < margin


def test_381_tiles_prove_one_percentage_point() -> None:
    assert pairs_needed(0.01) == 381


def test_the_interval_of_a_median_holds_it_and_narrows_with_more_rounds() -> None:
    random = np.random.default_rng(0)
    few, many = random.normal(1, 0.1, 10), random.normal(1, 0.1, 1000)
    (m1, l1, h1), (m2, l2, h2) = (median_interval(v, np.random.default_rng(1)) for v in (few, many))
    assert l1 <= m1 <= h1
    assert l2 <= m2 <= h2
    assert h2 - l2 < h1 - l1
    assert m2 == pytest.approx(1, abs=0.02)
