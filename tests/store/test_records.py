"""Records: canonical, read back as they were, and damaged ones refused with a type."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gramserve.calls import Call, Evidence, Finding, Outcome, ReviewReason
from gramserve.errors import Reason
from gramserve.store.codec import Record, RecordCorrupt
from gramserve.store.records import (
    AliasRecord,
    BatchRecord,
    BatchState,
    Counts,
    ErrorRecord,
    FinalRecord,
    ImageRecord,
    OutcomeRecord,
    Priority,
    RequestRecord,
    RoundRecord,
    SlideRecord,
    SlideState,
    StopRecord,
)

CALL = Call(
    Outcome.ORGANISMS_SEEN,
    (Finding("GNR", 0.9, 3, (Evidence(0, 1, 2, 3, 4, 0.5),)),),
    16,
    (ReviewReason.LOW_CONFIDENCE,),
)
STORED_CALL = json.loads(json.dumps(CALL.to_json()))
RECORDS: list[Record] = [
    SlideRecord(7, 'a "b"\n\u2028ä', (ImageRecord(sha256="0" * 64), ImageRecord(uri="file:///x")), "csf"),
    BatchRecord(
        "lab", "b1", "r1", "f", "models/m", "models/m/versions/3", "d", 2, Priority.STAT, None, 0.5, {"run": "1"}, 1.5
    ),
    RequestRecord("b1", "f"),
    OutcomeRecord(1, 0, SlideState.SUCCEEDED, call=STORED_CALL, attempts=2, worker_id="w", queue_s=0.25, time=9.0),
    OutcomeRecord(2, 1, SlideState.FAILED, error=ErrorRecord("CORRUPT_IMAGE", "The image is cut off.")),
    StopRecord("TOO_MANY_FAILURES", 2.0),
    RoundRecord(1, "r", (0, 5, 9), 3.0),
    FinalRecord(
        0, BatchState.EXPIRED, Counts(3, succeeded=1, failed=1, expired=1, review=1), "SFE", "d", None, None, 1.0
    ),
    AliasRecord(3, (1, 2), 4.0),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_is_read_back_as_it_was_and_gives_the_same_bytes_again(record: Record) -> None:
    data = record.to_json()
    assert type(record).from_json(data) == record
    assert type(record).from_json(data).to_json() == data
    assert b"\n" not in data
    assert data == json.dumps(json.loads(data), sort_keys=True, separators=(",", ":")).encode()


def test_a_call_survives_its_outcome() -> None:
    outcome = OutcomeRecord.from_json(OutcomeRecord(1, 0, SlideState.SUCCEEDED, call=CALL.to_json()).to_json())
    assert outcome.call is not None
    assert Call.from_json(outcome.call) == CALL
    assert outcome.review_required
    assert not OutcomeRecord(1, 0, SlideState.FAILED).review_required


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_damaged_record_is_RecordCorrupt_and_its_bytes_are_not_repeated(record: Record) -> None:
    data = record.to_json()
    fields = json.loads(data)
    damaged = [b"", b"null", b"[]", b"{}", b"\xff\xfe", data[:-1], data + b"x", b"[" * 100_000]
    for name in fields:
        wrongs = ([[None]], math.nan, {"x": [1]} if name != "call" else 1)
        damaged += [json.dumps({**fields, name: wrong}).encode() for wrong in wrongs]
    for bad in damaged:
        with pytest.raises(RecordCorrupt) as caught:
            type(record).from_json(bad)
        assert caught.value.reason is Reason.INTERNAL
        assert caught.value.metadata == {"record": type(record).__name__}
        assert caught.value.__suppress_context__


def test_a_number_is_no_bool_and_a_state_is_known() -> None:
    with pytest.raises(RecordCorrupt):
        RequestRecord.from_json(b'{"batch":true,"fingerprint":"f"}')
    with pytest.raises(RecordCorrupt):
        OutcomeRecord.from_json(b'{"index":true,"round":0,"state":"FAILED"}')
    with pytest.raises(RecordCorrupt):
        OutcomeRecord.from_json(b'{"index":1,"round":0,"state":"LOST"}')
    with pytest.raises(RecordCorrupt):
        StopRecord.from_json(b'{"cause":"BORED","time":1}')
    with pytest.raises(RecordCorrupt):
        StopRecord.from_json(b'{"cause":"CANCELLED","time":1%s}' % (b"0" * 400))


def test_two_releases_share_a_store_unknown_keys_are_ignored_and_absent_ones_take_their_default() -> None:
    assert StopRecord.from_json(b'{"cause":"CANCELLED","time":1,"new":[]}') == StopRecord("CANCELLED", 1.0)
    assert ImageRecord.from_json(b"{}") == ImageRecord()


def test_what_is_no_JSON_is_not_written() -> None:
    with pytest.raises(ValueError, match="JSON"):
        StopRecord("CANCELLED", math.nan).to_json()


def test_states_have_letters_and_ends() -> None:
    terminal = [state for state in SlideState if state.terminal]
    assert "".join(state.letter for state in terminal) == "SFCE"
    assert [SlideState.from_letter(letter) for letter in "SFCE"] == terminal
    for letter in ("Q", "R", "X"):
        with pytest.raises(ValueError, match=letter):
            SlideState.from_letter(letter)
    assert [state for state in BatchState if not state.terminal] == ["QUEUED", "RUNNING", "CANCELLING"]


@settings(max_examples=50)
@given(st.text(), st.lists(st.text(), min_size=1, max_size=3), st.text())
def test_any_text_survives(slide_id: str, uris: list[str], specimen_type: str) -> None:
    record = SlideRecord(0, slide_id, tuple(ImageRecord(uri=uri) for uri in uris), specimen_type)
    assert SlideRecord.from_json(record.to_json()) == record
