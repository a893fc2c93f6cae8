"""Calls as a person reads them in the terminal."""

from __future__ import annotations

import pytest
from rich.console import Console

from gramserve.cli.calls import MAX_ROWS, Rows, call_text, calls_table, review_text
from gramserve.v1.slide_pb2 import Call, Finding, Slide

GNR = Finding(label="GNR", quantity=Finding.QUANTITY_FEW, probability=0.9)
COCCI = Finding(label="GPC_CLUSTERS", probability=0.8)


def _seen(finding: Finding) -> Slide:
    call = Call(outcome=Call.OUTCOME_ORGANISMS_SEEN, findings=[finding])
    return Slide(state=Slide.STATE_SUCCEEDED, call=call)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (Call(outcome=Call.OUTCOME_ORGANISMS_SEEN, findings=[GNR]), "GNR few"),
        (Call(outcome=Call.OUTCOME_ORGANISMS_SEEN, findings=[COCCI]), "GPC_CLUSTERS"),
        (Call(outcome=Call.OUTCOME_MIXED_ORGANISMS_SEEN, findings=[GNR, COCCI]), "mixed: GNR few, GPC_CLUSTERS"),
        (Call(outcome=Call.OUTCOME_NO_ORGANISM_SEEN), "no organism seen"),
        (Call(outcome=Call.OUTCOME_UNASSESSABLE, unassessable_reason="BLANK"), "unassessable: BLANK"),
    ],
)
def test_a_call_in_a_few_words(call: Call, text: str) -> None:
    assert call_text(Slide(state=Slide.STATE_SUCCEEDED, call=call)) == text


@pytest.mark.parametrize(
    ("slide", "text"),
    [
        (Slide(state=Slide.STATE_SUCCEEDED, call=Call(outcome=99)), "unknown"),
        (Slide(state=99), "unknown"),
        (_seen(Finding(label="GNR", quantity=99)), "GNR unknown"),
    ],
)
def test_what_only_a_newer_release_knows_is_unknown_and_never_called_something_else(slide: Slide, text: str) -> None:
    assert call_text(slide) == text


def test_what_is_suspected_stands_with_the_reasons_for_review() -> None:
    call = Call(review_reasons=["LOW_CONFIDENCE", "OUT_OF_DISTRIBUTION"], suspected_findings=[COCCI])
    assert review_text(Slide(call=call)) == "low confidence, out of distribution (GPC_CLUSTERS?)"
    assert review_text(Slide()) == ""


def test_the_table_says_how_many_tiles_were_fit_to_read_where_not_all_were() -> None:
    call = Call(outcome=Call.OUTCOME_NO_ORGANISM_SEEN, tile_count=16, assessed_tile_count=12, blank_tile_count=4)
    console = Console(width=200)
    with console.capture() as printed:
        console.print(calls_table([Slide(state=Slide.STATE_SUCCEEDED, call=call)]))
    assert "12 of 16" in printed.get()


def test_of_many_slides_those_that_need_a_person_are_shown_first() -> None:
    few, many = Rows(), Rows()
    quiet = [Slide(slide_id=str(number), state=Slide.STATE_SUCCEEDED) for number in range(MAX_ROWS)]
    review = Slide(slide_id="review", state=Slide.STATE_SUCCEEDED, call=Call(review_reasons=["LOW_CONFIDENCE"]))
    failed = Slide(slide_id="failed", state=Slide.STATE_FAILED)
    for slide in [*quiet[:2], review, failed]:
        few.add(slide)
    assert [slide.slide_id for slide in few.chosen()] == ["0", "1", "review", "failed"]
    for slide in [*quiet, review, failed]:
        many.add(slide)
    shown = [slide.slide_id for slide in many.chosen()]
    assert shown == ["failed", "review", *(slide.slide_id for slide in quiet[: MAX_ROWS - 2])]
