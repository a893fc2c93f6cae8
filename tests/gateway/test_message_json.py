"""Messages as JSON are those of protobuf's own writer."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from gateway.convert import slide_to_message
from gateway.message_json import to_json
from gateway.names import BatchName
from gramserve.calls import Outcome, ReviewReason, UnassessableReason
from gramserve.store.records import ErrorRecord, OutcomeRecord, SlideState
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s

NAME = BatchName("north", "b-1")
PROBABILITIES = st.floats(0, 1) | st.sampled_from([0.0, 1.0, 0.1, 1 / 3, 1e-30, 0.30000001])
SMALL = st.integers(0, 2**31 - 1)
TEXTS = st.text(max_size=20)


def records(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(dict(fields))


TILES = records(image_index=SMALL, x=SMALL, y=SMALL, width=SMALL, height=SMALL, probability=PROBABILITIES)
FINDINGS = records(label=TEXTS, probability=PROBABILITIES, tile_count=SMALL, evidence=st.lists(TILES, max_size=3))
CALLS = records(
    outcome=st.sampled_from([outcome.value for outcome in Outcome]),
    findings=st.lists(FINDINGS, max_size=3),
    tile_count=SMALL,
    review_reasons=st.lists(st.sampled_from([reason.value for reason in ReviewReason])),
    unassessable_reason=st.sampled_from(["", *(reason.value for reason in UnassessableReason)]),
)


def protobufs_own(message: Message) -> bytes:
    return json_format.MessageToJson(message, indent=None).encode()


@given(
    index=st.integers(0, 999_999),
    slide_id=TEXTS,
    state=st.sampled_from(SlideState),
    call=st.none() | CALLS,
    error=st.none() | st.builds(ErrorRecord, st.sampled_from(["CORRUPT_IMAGE", "WORKER_CRASHED"]), TEXTS),
    seconds=st.floats(0, 4e9),
)
def test_every_slide_reads_as_protobuf_itself_would_write_it(
    index: int, slide_id: str, state: SlideState, call: Any, error: ErrorRecord | None, seconds: float
) -> None:
    outcome = OutcomeRecord(index, 0, state, call, error, worker_id="w", queue_s=seconds, inference_s=0.1, time=seconds)
    message = slide_to_message(NAME, index, slide_id, state, outcome)
    assert to_json(message) == protobufs_own(message)


@pytest.mark.parametrize(
    "message",
    [
        b.Image(content=b"\x00\xff"),
        b.SlideBatch(annotations={"a": "b"}, max_failed_ratio=0.7),
        b.SlideBatch(max_failed_ratio=float("nan")),
        s.WatchSlideBatchResponse(sequence=2**40, further=[s.WatchSlideBatchResponse(sequence=1)]),
        s.ListSlidesResponse(),
    ],
    ids=["bytes", "map", "nan", "of its own kind", "empty"],
)
def test_other_messages_do_too(message: Message) -> None:
    assert to_json(message) == protobufs_own(message)
