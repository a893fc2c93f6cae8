"""Drained batches, finishing them, and what is left afterwards."""

from __future__ import annotations

from gramserve.queue import Done, Queue, Settlement
from tests.queue.lane import Lane
from tests.waiting import until


async def test_a_batch_drains_when_its_last_slide_ends(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    first, second = await queue.lease("w1", 2, idle=True)
    await queue.complete(first, "w1", "SUCCEEDED")
    assert await queue.drained() == []
    await queue.complete(second, "w1", "FAILED")
    assert await queue.drained() == ["lab/b"]
    assert await queue.finish("lab/b", "PARTIALLY_SUCCEEDED")
    assert await queue.drained() == []


async def test_a_batch_does_not_drain_before_all_its_slides_were_submitted(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 2)
    await queue.submit("lab/b", [0], more=True)
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    assert await queue.drained() == []
    await queue.submit("lab/b", [0, 1])
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    assert await queue.drained() == ["lab/b"]


async def test_a_batch_rebuilt_with_nothing_left_to_do_is_drained_at_once(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 2, done=Done(succeeded=1, failed=1))
    assert await queue.drained() == ["lab/b"]
    await lane.open("lab/c", 2, done=Done(succeeded=1))
    assert await queue.submit("lab/c", []) == 0
    assert await queue.drained() == ["lab/b", "lab/c"], "what is missing in c, the store knows"


async def test_a_batch_finishes_once_and_not_while_slides_live(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    assert not await queue.finish("lab/b", "SUCCEEDED")
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    assert await queue.finish("lab/b", "SUCCEEDED")
    assert not await queue.finish("lab/b", "FAILED")
    assert not await queue.finish("lab/unknown", "FAILED")
    assert await queue.submit("lab/b", [0]) == 0
    assert await queue.audit("lab/b", [0]) == 0
    assert await lane.events("lab/b") == [
        (-1, "QUEUED"),
        (-1, "RUNNING"),
        (0, "RUNNING"),
        (0, "SUCCEEDED"),
        (-1, "SUCCEEDED"),
    ]
    assert (await lane.snapshot("lab/b")).finished == "SUCCEEDED"


async def test_I9_after_a_drain_nothing_of_a_slide_is_left_and_nothing_of_the_batch_after_its_retention(
    lane: Lane, queue: Queue
) -> None:
    fixed = ["bell", "counter", "draining", "format", "stats"]
    await lane.fill("lab/b", 40)
    await queue.drain("somebody")
    dead = await queue.lease("w1", 10, idle=True)
    await queue.fail(dead[0], "w1", crash=False, delay_s=5)
    await lane.let_delays_pass()
    await lane.let_leases_run_out()
    await queue.reclaim("sweeper")
    while leases := await queue.lease("w2", 20, idle=True):
        for lease in leases:
            await queue.complete(lease, "w2", "SUCCEEDED")
    await queue.complete(dead[1], "w1", "SUCCEEDED")
    assert await lane.keys() == sorted(
        [*fixed, "batch:lab/b", "drained", "events:lab/b", "pending:lab/b", "worker:w1", "worker:w2"]
    )
    await queue.finish("lab/b", "SUCCEEDED", retention_s=0.05)
    await queue.finish("lab/b", "SUCCEEDED", retention_s=9999)
    for worker in ("w1", "w2"):
        assert 0 < await lane.redis.pttl(lane.key(f"worker:{worker}")) <= 60_000
        await lane.redis.pexpire(lane.key(f"worker:{worker}"), 1)

    async def gone() -> bool:
        return await lane.keys() == fixed

    await until(gone)
    assert await queue.snapshot("lab/b") is None
    assert await queue.events("lab/b", 0) == []


async def test_a_batch_is_not_drained_before_all_of_it_was_handed_over_and_takes_no_slide_afterwards(
    lane: Lane, queue: Queue
) -> None:
    await lane.open("lab/b", 2)
    await queue.submit("lab/b", [0], more=True)
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    assert await queue.drained() == []
    assert await queue.submit("lab/b", []) == 0
    assert await queue.drained() == ["lab/b"]
    assert await queue.submit("lab/b", [0, 1]) == 0
    assert await queue.drained() == ["lab/b"]


async def test_I9_ended_batches_are_bounded_in_slides_and_the_oldest_go_first(lane: Lane, queue: Queue) -> None:
    for number in range(4):
        await lane.fill(f"lab/{number}", 3)
        await queue.complete_many("w1", [Settlement(one, "SUCCEEDED") for one in await queue.lease("w1", 3, idle=True)])
        assert await queue.finish(f"lab/{number}", "SUCCEEDED", retention_s=3600, retention_slides=6)

    async def remembered_ms(number: int) -> int:
        return int(await lane.redis.pttl(lane.key(f"events:lab/{number}")))

    assert [await remembered_ms(number) <= 1000 for number in range(4)] == [True, True, False, False]


async def test_I9_the_last_batch_is_remembered_however_large_and_a_retried_one_is_kept(
    lane: Lane, queue: Queue
) -> None:
    await lane.fill("lab/a", 3)
    leases = await queue.lease("w1", 3, idle=True)
    await queue.complete_many("w1", [Settlement(one, "FAILED") for one in leases])
    assert await queue.finish("lab/a", "FAILED", retention_slides=1)
    assert await lane.redis.pttl(lane.key("events:lab/a")) > 1000
    assert await lane.open("lab/a", 3, round=1, done=Done(succeeded=2))
    await lane.fill("lab/b", 2)
    await queue.submit("lab/a", [0])
    leases = [one for one in await queue.lease("w1", 3, idle=True) if one.batch == "lab/b"]
    await queue.complete_many("w1", [Settlement(one, "SUCCEEDED") for one in leases])
    assert await queue.finish("lab/b", "SUCCEEDED", retention_slides=1)
    assert await lane.redis.pttl(lane.key("events:lab/a")) == -1
