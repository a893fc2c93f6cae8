"""Watching a batch and waiting for work."""

from __future__ import annotations

import asyncio

from gramserve.queue import Queue
from tests.queue.lane import Lane
from tests.waiting import HANGS_S

LONG_S = 10 * HANGS_S
"""A wait that only its signal can end before the test fails."""


async def test_events_tell_the_story_of_a_batch_in_order(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    first, second = await queue.lease("w1", 2, idle=True)
    await queue.complete(first, "w1", "SUCCEEDED")
    await queue.fail(second, "w1", crash=False, delay_s=0)
    await queue.complete(await lane.lease_one(), "w1", "FAILED")
    await queue.finish("lab/b", "PARTIALLY_SUCCEEDED")
    events = await queue.events("lab/b", 0)
    assert [event.sequence for event in events] == list(range(1, 10))
    assert [(event.index, event.state, event.attempts) for event in events] == [
        (-1, "QUEUED", 0),
        (-1, "RUNNING", 0),
        (0, "RUNNING", 1),
        (1, "RUNNING", 1),
        (0, "SUCCEEDED", 1),
        (1, "QUEUED", 1),
        (1, "RUNNING", 2),
        (1, "FAILED", 2),
        (-1, "PARTIALLY_SUCCEEDED", 0),
    ]
    assert [event.time_s for event in events] == sorted(event.time_s for event in events)
    assert (await lane.snapshot("lab/b")).last_sequence == 9


async def test_a_watch_resumes_after_a_sequence_without_gap_or_repeat(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 30)
    for lease in await queue.lease("w1", 30, idle=True):
        await queue.complete(lease, "w1", "SUCCEEDED")
    seen: list[int] = []
    while page := await queue.events("lab/b", seen[-1] if seen else 0, limit=7):
        assert len(page) <= 7
        seen += [event.sequence for event in page]
    assert seen == list(range(1, 63))
    assert await queue.events("lab/b", 10**15) == []
    assert await queue.events("lab/unknown", 0) == []


async def test_waiting_for_events_ends_with_the_next_one(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    last = (await lane.snapshot("lab/b")).last_sequence
    await queue.next_events("lab/b", 0, 1, 60)  # there are some already
    waiting = [asyncio.create_task(queue.next_events("lab/b", last, 1, LONG_S)) for _ in range(3)]
    await lane.lease_one()
    await asyncio.wait_for(asyncio.gather(*waiting), HANGS_S)


async def test_the_next_events_come_with_the_answer_that_was_waited_for(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    last = (await lane.snapshot("lab/b")).last_sequence
    assert await queue.next_events("lab/b", 0, 100, 60) == await queue.events("lab/b", 0)
    waiting = asyncio.create_task(queue.next_events("lab/b", last, 100, LONG_S))
    await lane.lease_one()
    found = await asyncio.wait_for(waiting, HANGS_S)
    assert found == (await queue.events("lab/b", last))[: len(found)]
    assert found
    assert await asyncio.wait_for(queue.next_events("lab/b", last + 10, 100, 0.05), HANGS_S) == []


async def test_waiting_for_events_ends_in_time_without_one(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    await asyncio.wait_for(queue.next_events("lab/b", 10, 1, 0.05), HANGS_S)
    await asyncio.wait_for(queue.next_events("lab/unknown", 0, 1, 0.05), HANGS_S)


async def test_a_watcher_that_leaves_breaks_nothing(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    for _ in range(3):
        waiting = asyncio.create_task(queue.next_events("lab/b", 10, 1, 60))
        await asyncio.wait([waiting], timeout=0.02)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert waiting.cancelled()
    await queue.next_events("lab/b", 0, 1, 60)


async def test_an_idle_worker_wakes_when_something_becomes_ready(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/a", 1)
    await queue.wait_ready(60)  # it was rung before
    lease = await lane.lease_one()
    for wake in (queue.release([lease], "w1"), queue.drain("w1"), lane.fill("lab/b", 1)):
        waiting = asyncio.create_task(queue.wait_ready(LONG_S))
        await wake
        await asyncio.wait_for(waiting, HANGS_S)
    await asyncio.wait_for(queue.wait_ready(0.05), HANGS_S)


async def test_depth_says_how_long_the_next_slides_have_waited(lane: Lane, queue: Queue) -> None:
    assert (await queue.depth()).oldest_ready_s == 0
    await lane.fill("lab/stat", 2, priority_stat=True, accepted_s=1_700_000_000)
    await lane.fill("lab/routine", 3)
    depth = await queue.depth()
    assert (depth.ready_stat, depth.ready_routine) == (2, 3)
    assert depth.oldest_ready_s > 1e6
    await queue.lease("w1", 2, idle=True)
    depth = await queue.depth()
    assert (depth.ready_stat, depth.leased) == (0, 2)
    assert depth.oldest_ready_s < 1e6


async def test_after_a_restart_of_redis_no_sequence_is_used_twice(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/a", 2)
    before = (await queue.events("lab/a", 0))[-1].sequence
    await queue.renumber("lab/a")
    [lease, *_] = await queue.lease("w1", 1, idle=True)
    after = (await queue.events("lab/a", before))[0]
    assert lease.index == 0
    assert after.sequence > 1_000_000_000_000_000  # microseconds since 1970: above all that was counted up
    await queue.renumber("lab/a")  # nor does it ever go back
    await queue.release([lease], "w1")
    assert (await queue.events("lab/a", after.sequence))[0].sequence > after.sequence


async def test_the_running_slides_of_a_batch_are_named(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/a", 3)
    await lane.fill("lab/a2", 3)
    leases = await queue.lease("w1", 2, idle=True)
    assert await queue.running("lab/a") == [lease.index for lease in leases] == [0, 1]
    assert await queue.running("lab/a2") == []


async def test_a_round_is_not_ended_in_the_place_of_another(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/a", 1)
    [lease] = await queue.lease("w1", 1, idle=True)
    await queue.complete(lease, "w1", "SUCCEEDED")
    assert not await queue.finish("lab/a", "SUCCEEDED", expected_round=1)
    assert await queue.finish("lab/a", "SUCCEEDED", expected_round=0)
