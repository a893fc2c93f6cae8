from __future__ import annotations

import numpy as np
import pytest

from optimizer_svc.calibrate import fit_temperature, reliability


def overconfident(factor: float, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from softmax(logits / factor)."""
    random = np.random.default_rng(0)
    honest = random.normal(0, 2, (count, 4))
    chance = np.exp(honest) / np.exp(honest).sum(axis=1, keepdims=True)
    targets = np.array([random.choice(4, p=row) for row in chance], np.int64)
    return (honest * factor).astype(np.float32), targets


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(factor: float) -> None:
    logits, targets = overconfident(factor)
    assert fit_temperature(logits, targets) == pytest.approx(factor, rel=0.08)


def test_calibration_lowers_error_and_entropy() -> None:
    logits, targets = overconfident(3.0)
    temperature = fit_temperature(logits, targets)
    before, after = reliability(logits, targets, 1.0), reliability(logits, targets, temperature)
    assert before.ece > 0.1 > 0.03 > after.ece
    assert after.nll < before.nll


def test_a_split_without_errors_does_not_ask_for_boundless_certainty() -> None:
    targets = np.repeat(np.arange(5), 20)
    logits = np.eye(5, dtype=np.float32)[targets] * 4
    temperature = fit_temperature(logits, targets)
    assert 0.2 < temperature < 2
    wrong = reliability(logits, targets, temperature)
    assert wrong.bins[-1].confidence < 0.9999


def test_the_expected_calibration_error_by_hand() -> None:
    # Two tiles called with 0.9, one of them right; two called with 0.6, both right.
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], np.float32))
    found = reliability(logits, np.array([0, 1, 0, 0]), 1.0)
    assert found.ece == pytest.approx(0.5 * abs(0.9 - 0.5) + 0.5 * abs(0.6 - 1.0), abs=1e-5)
    assert [(b.tiles, round(b.accuracy, 2)) for b in found.bins] == [(2, 1.0), (2, 0.5)]
