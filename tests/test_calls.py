"""Calls as values and as JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest

from gramserve.calls import Call, Evidence, Finding, Outcome, Quantity, ReviewReason, UnassessableReason

SEEN = Call(
    Outcome.ORGANISMS_SEEN,
    (
        Finding("GPC_CLUSTERS", 0.98, 12, (Evidence(0, 10, 20, 224, 224, 0.99), Evidence(1, 0, 0, 224, 224, 0.9))),
        Finding("GNR", 0.61, 2, ()),
    ),
    tile_count=64,
    review_reasons=(ReviewReason.LOW_CONFIDENCE,),
)
CALLS = [
    SEEN,
    Call(Outcome.NO_ORGANISM_SEEN, (), 16),
    Call(Outcome.UNASSESSABLE, (), 0, unassessable_reason=UnassessableReason.TOO_FEW_TILES),
    Call(
        Outcome.MIXED_ORGANISMS_SEEN,
        (Finding("GNR", 0.9, 3, (), Quantity.FEW, "negative", "bacilli"),),
        40,
        (ReviewReason.MIXED_GROWTH, ReviewReason.PARTLY_ASSESSABLE),
        suspected=(Finding("GPC_CLUSTERS", 0.7, 1, (Evidence(0, 10, 20, 224, 224, 0.7),), None, "positive", "cocci"),),
        blank_tiles=8,
        unfocused_tiles=2,
    ),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.outcome.value)
def test_a_call_survives_json(call: Call) -> None:
    assert Call.from_json(json.loads(json.dumps(call.to_json()))) == call


def test_a_call_needs_review_exactly_when_it_says_why() -> None:
    assert SEEN.review_required
    assert not CALLS[1].review_required


def test_a_call_of_an_earlier_release_is_read() -> None:
    data = {**SEEN.to_json(), "unassessable_reason": ""}
    for added in ("suspected", "blank_tiles", "unfocused_tiles"):
        assert added not in data
    assert Call.from_json(data) == SEEN


def test_what_was_not_fit_to_read_is_not_among_the_assessed_tiles() -> None:
    assert CALLS[3].assessed_tiles == 30


def test_a_call_does_not_change_after_it_is_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SEEN.tile_count = 1  # type: ignore[misc]


@pytest.mark.parametrize("missing", ["outcome", "findings", "tile_count"])
def test_json_that_is_not_a_call_is_refused(missing: str) -> None:
    data = SEEN.to_json()
    del data[missing]
    with pytest.raises(KeyError):
        Call.from_json(data)


def test_an_outcome_of_another_release_is_refused_and_not_guessed() -> None:
    with pytest.raises(ValueError, match="MAYBE"):
        Call.from_json({**SEEN.to_json(), "outcome": "MAYBE"})
