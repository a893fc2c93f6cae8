"""Cancelling, expiring and hard due times."""

from __future__ import annotations

import time

import pytest

from gramserve.queue import Queue, RenewStatus
from tests.queue.lane import Lane


async def test_cancelling_ends_what_waits_and_lets_finish_what_runs(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2500)
    await lane.fill("lab/other", 2)
    running, retried = await queue.lease("w1", 2, idle=True)
    await queue.fail(retried, "w1", crash=False, delay_s=60)
    assert await queue.cancel("lab/b") == 2499
    seen = await lane.snapshot("lab/b")
    assert (seen.queued, seen.running, seen.cancelled, seen.stopping) == (0, 1, 2499, "CANCELLED")
    assert await queue.renew("w1", [running]) == [RenewStatus.CANCEL]
    assert [lease.batch for lease in await queue.lease("w2", 3, idle=True)] == ["lab/other", "lab/other"]
    assert (await queue.complete(running, "w1", "SUCCEEDED")).accepted
    await lane.check(["lab/b", "lab/other"])
    assert await queue.drained() == ["lab/b"]
    events = await lane.events("lab/b")
    assert events.count((-1, "CANCELLING")) == 1
    assert [index for index, state in events if state == "CANCELLED"] == list(range(1, 2500))


async def test_cancelling_again_changes_nothing(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    lease = await lane.lease_one()
    assert await queue.cancel("lab/b") == 2
    before = await lane.snapshot("lab/b")
    assert await queue.cancel("lab/b") == 0
    assert await queue.expire("lab/b") == 0
    assert await lane.snapshot("lab/b") == before, "the first stop decides"
    await queue.complete(lease, "w1", "FAILED")
    assert await queue.cancel("lab/unknown") == 0


async def test_a_batch_whose_slides_have_all_ended_cannot_be_stopped(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    assert await queue.cancel("lab/b") == 0
    assert (await lane.snapshot("lab/b")).stopping == ""
    await queue.finish("lab/b", "SUCCEEDED")
    assert await queue.expire("lab/b") == 0
    assert (await lane.events("lab/b"))[-1] == (-1, "SUCCEEDED")


@pytest.mark.parametrize("way", ["fail", "crash", "release", "reclaim"])
async def test_a_slide_of_a_stopped_batch_is_not_queued_again(lane: Lane, queue: Queue, way: str) -> None:
    await lane.fill("lab/b", 1)
    lease = await lane.lease_one()
    await queue.cancel("lab/b")
    if way == "release":
        assert await queue.release([lease], "w1") == 1
    elif way == "reclaim":
        await lane.let_leases_run_out()
        await queue.reclaim("sweeper")
    else:
        assert await queue.fail(lease, "w1", crash=way == "crash", delay_s=5)
    seen = await lane.snapshot("lab/b")
    assert (seen.cancelled, seen.running, seen.live) == (1, 0, 0)
    assert await queue.drained() == ["lab/b"]


async def test_lease_never_gives_out_a_slide_of_a_stopping_batch(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 50)
    await lane.fill("lab/next", 1)
    await lane.redis.hset(lane.key("batch:lab/b"), "stopping", "CANCELLED")  # a cancel that died after its first step
    assert [lease.batch for lease in await queue.lease("w1", 2, idle=True)] == ["lab/next"]
    assert (await lane.snapshot("lab/b")).cancelled == 50
    await lane.check(["lab/b", "lab/next"])


async def test_slides_submitted_to_a_stopping_batch_end_at_once(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 5)
    await queue.submit("lab/b", [0, 1], more=True)
    assert await queue.cancel("lab/b") == 2
    assert await queue.drained() == [], "three slides were not handed over yet"
    assert await queue.submit("lab/b", range(5)) == 3
    seen = await lane.snapshot("lab/b")
    assert (seen.cancelled, seen.queued, seen.live, seen.submitted) == (5, 0, 0, True)
    assert await queue.drained() == ["lab/b"]
    await lane.check(["lab/b"])


async def test_I12_nothing_starts_past_a_hard_due_time(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 5, hard_due_s=time.time() + 3600)
    running, retried, finishing = await queue.lease("w1", 3, idle=True)
    await lane.let_hard_due_pass("lab/b")
    assert await queue.lease("w2", 5, idle=True) == []
    assert await queue.fail(retried, "w1", crash=False, delay_s=0)
    assert await queue.release([running], "w1") == 1
    assert (await queue.complete(finishing, "w1", "SUCCEEDED")).accepted, "EXPIRED still delivers what is done"
    seen = await lane.snapshot("lab/b")
    assert (seen.expired, seen.succeeded, seen.live, seen.stopping) == (4, 1, 0, "EXPIRED")
    await lane.check(["lab/b"])


async def test_I12_a_batch_opened_past_its_hard_due_time_expires_as_it_is_submitted(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3, hard_due_s=time.time() - 1)
    assert (await lane.snapshot("lab/b")).expired == 3
    assert await queue.drained() == ["lab/b"]


async def test_a_due_time_that_does_not_bind_only_sorts(lane: Lane) -> None:
    await lane.fill("lab/b", 1, due_s=time.time() - 3600)
    assert (await lane.lease_one()).index == 0


async def test_expiring_ends_what_waits(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 4)
    lease = await lane.lease_one()
    assert await queue.expire("lab/b") == 3
    assert await queue.release([lease], "w1") == 1
    seen = await lane.snapshot("lab/b")
    assert (seen.expired, seen.stopping) == (4, "EXPIRED")
    assert (-1, "CANCELLING") not in await lane.events("lab/b")
