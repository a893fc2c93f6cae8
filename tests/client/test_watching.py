"""Following a batch across outages: no gap, no repeat."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gramserve.client import GramserveClient, Patience
from gramserve.client.watching import Reported
from gramserve.errors import NotFound, Reason, Unavailable
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse
from tests.client.desk import IMPATIENT, BatchDesk, batch_desk, batch_event, serving, slide_event

AWAY = Unavailable(Reason.QUEUE_UNAVAILABLE, "away")


def telling(*events: WatchSlideBatchResponse | Exception) -> Any:
    """A watch that sends these events; an exception breaks it off."""

    async def watch(request: Any) -> AsyncIterator[WatchSlideBatchResponse]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield event

    return watch


async def watched(desk: BatchDesk) -> list[WatchSlideBatchResponse]:
    async with serving(batch_desk(desk)) as target, GramserveClient(target, patience=IMPATIENT) as client:
        return [event async for event in client.watch_batch("b")]


async def test_a_broken_watch_goes_on_after_the_last_sequence() -> None:
    first = [batch_event(1, "RUNNING"), slide_event(2, 0, "RUNNING")]
    second = [slide_event(3, 0, "SUCCEEDED"), batch_event(4, "SUCCEEDED")]
    desk = BatchDesk(watches=[telling(*first, AWAY), telling(AWAY), telling(*second)])
    assert await watched(desk) == [*first, *second]
    assert [request.after_sequence for request in desk.requests] == [0, 2, 2]


async def test_a_stream_that_ends_before_the_batch_is_taken_up_again() -> None:
    desk = BatchDesk(watches=[telling(slide_event(1, 0, "RUNNING")), telling(batch_event(2, "CANCELLED"))])
    assert [event.sequence for event in await watched(desk)] == [1, 2]


async def test_what_a_rebuilt_queue_repeats_is_not_reported_again() -> None:
    before = [slide_event(1, 0, "RUNNING"), slide_event(2, 0, "SUCCEEDED"), slide_event(3, 1, "RUNNING")]
    rebuilt = [slide_event(9_000_001, 0, "SUCCEEDED"), slide_event(9_000_002, 1, "QUEUED", 0)]
    after = [slide_event(9_000_003, 1, "RUNNING"), slide_event(9_000_004, 1, "SUCCEEDED")]
    end = batch_event(9_000_005, "SUCCEEDED")
    desk = BatchDesk(watches=[telling(*before, AWAY), telling(*rebuilt, *after, end)])
    assert await watched(desk) == [*before, rebuilt[1], *after, end]


async def test_heartbeats_are_not_reported() -> None:
    desk = BatchDesk(
        watches=[
            telling(
                batch_event(1, "RUNNING"),
                batch_event(1, "RUNNING"),
                batch_event(1, "RUNNING"),
                batch_event(2, "FAILED"),
            )
        ]
    )
    assert [event.sequence for event in await watched(desk)] == [1, 2]


async def test_a_batch_that_has_ended_says_so_whatever_the_sequence() -> None:
    desk = BatchDesk(watches=[telling(batch_event(7, "SUCCEEDED"))])
    async with serving(batch_desk(desk)) as target, GramserveClient(target, patience=IMPATIENT) as client:
        events = [event async for event in client.watch_batch("b", after_sequence=7)]
    assert [event.sequence for event in events] == [7]


async def test_an_end_that_was_retried_is_not_the_end() -> None:
    events = [
        slide_event(1, 0, "FAILED"),
        batch_event(2, "FAILED"),
        slide_event(3, 0, "QUEUED", 0),
        batch_event(4, "RUNNING", retry_round=1),
        slide_event(5, 0, "RUNNING"),
        slide_event(6, 0, "SUCCEEDED"),
        batch_event(7, "SUCCEEDED", retry_round=1),
    ]
    assert await watched(BatchDesk(watches=[telling(*events)])) == events


async def test_an_unknown_batch_is_not_waited_for() -> None:
    desk = BatchDesk(watches=[telling(NotFound(Reason.UNKNOWN_BATCH, "no such batch"))])
    with pytest.raises(NotFound):
        await watched(desk)


async def test_patience_ends() -> None:
    async with serving() as target:
        pass
    async with GramserveClient(target, patience=Patience(total_s=0.2)) as client:
        with pytest.raises(Unavailable):
            _ = [event async for event in client.watch_batch("b")]


def test_a_slide_that_fails_and_is_tried_again_is_reported_each_time() -> None:
    reported = Reported()
    story = [("RUNNING", 1), ("QUEUED", 1), ("RUNNING", 2), ("FAILED", 2)]
    events = [slide_event(n, 0, state, attempts) for n, (state, attempts) in enumerate(story, start=1)]
    assert all(reported.is_new(event) for event in events)
    assert not reported.is_new(slide_event(9, 0, "FAILED", 3))
    assert reported.sequence == 9
