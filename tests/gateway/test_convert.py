"""The call of a slide as clients get it."""

from __future__ import annotations

from pathlib import Path

from gateway.convert import call_to_message
from gramserve.calls import Call, Evidence, Finding, Outcome, Quantity, ReviewReason, UnassessableReason
from gramserve.v1 import slide_pb2

GNR = Finding("GNR", 0.9, 3, (Evidence(0, 1, 2, 3, 4, 0.9),), Quantity.FEW, "negative", "bacilli")
COCCI = Finding("GPC_CLUSTERS", 0.7, 1, (), None, "positive", "cocci", "clusters")


def test_every_outcome_and_quantity_has_its_code():
    for outcome in Outcome:
        message = call_to_message(Call(outcome, (), 0))
        assert slide_pb2.Call.Outcome.Name(message.outcome) == f"OUTCOME_{outcome}"
    for quantity in Quantity:
        (finding,) = call_to_message(Call(Outcome.ORGANISMS_SEEN, (Finding("GNR", 1.0, 1, (), quantity),), 1)).findings
        assert slide_pb2.Finding.Quantity.Name(finding.quantity) == f"QUANTITY_{quantity}"


def test_all_that_a_call_says_reaches_the_client():
    reasons = (ReviewReason.LOW_CONFIDENCE, ReviewReason.PARTLY_ASSESSABLE)
    message = call_to_message(
        Call(
            Outcome.ORGANISMS_SEEN,
            (GNR,),
            20,
            reasons,
            suspected=(COCCI,),
            blank_tiles=5,
            unfocused_tiles=3,
            misscaled_tiles=2,
        )
    )
    assert (message.tile_count, message.assessed_tile_count) == (20, 10)
    assert (message.blank_tile_count, message.unfocused_tile_count, message.misscaled_tile_count) == (5, 3, 2)
    assert message.review_required
    assert list(message.review_reasons) == ["LOW_CONFIDENCE", "PARTLY_ASSESSABLE"]
    (finding,) = message.findings
    assert (finding.gram, finding.morphology, finding.arrangement) == ("negative", "bacilli", "")
    (suspected,) = message.suspected_findings
    assert (suspected.label, suspected.quantity) == ("GPC_CLUSTERS", slide_pb2.Finding.QUANTITY_UNSPECIFIED)


def test_the_contract_names_every_reason():
    contract = (Path(__file__).parents[2] / "protos/gramserve/v1/slide.proto").read_text()
    assert [reason for reason in (*ReviewReason, *UnassessableReason) if reason not in contract] == []


def test_why_a_slide_is_unassessable_is_told_and_otherwise_empty():
    message = call_to_message(
        Call(Outcome.UNASSESSABLE, (), 4, (ReviewReason.UNASSESSABLE,), UnassessableReason.OUT_OF_FOCUS)
    )
    assert message.unassessable_reason == "OUT_OF_FOCUS"
    assert call_to_message(Call(Outcome.NO_ORGANISM_SEEN, (), 4)).unassessable_reason == ""
