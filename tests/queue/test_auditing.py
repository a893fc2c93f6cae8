"""Repairs of a queue that somebody or something damaged."""

from __future__ import annotations

import pytest

from gramserve.errors import Unavailable
from gramserve.queue import Queue
from tests.queue.lane import Lane


async def test_I8_a_sound_queue_is_left_alone(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1100)
    leases = await queue.lease("w1", 3, idle=True)
    await queue.fail(leases[0], "w1", crash=False, delay_s=60)
    await queue.complete(leases[1], "w1", "SUCCEEDED")
    before = (await lane.places(), await lane.snapshot("lab/b"))
    assert await queue.audit("lab/b", range(1100)) == 0
    assert (await lane.places(), await lane.snapshot("lab/b")) == before


async def test_I8_a_lost_slide_is_queued_again(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 4)
    lost_lease, *_ = await queue.lease("w1", 1, idle=True)
    await lane.redis.zrem(lane.key("ready"), "lab/b/000002")
    await lane.redis.zrem(lane.key("leased"), "lab/b/000000")
    assert await queue.audit("lab/b", range(4)) == 2
    await lane.check(["lab/b"])
    assert (await lane.places())["ready"] == [f"lab/b/00000{n}" for n in range(4)]
    assert not (await queue.complete(lost_lease, "w1", "SUCCEEDED")).accepted
    assert [(lease.index, lease.crashes) for lease in await queue.lease("w1", 9, idle=True)] == [
        (n, 0) for n in range(4)
    ]
    assert (await queue.tallies())["repaired"] == 2


async def test_I8_a_slide_in_two_places_stays_in_the_one_where_it_runs(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    lease = await lane.lease_one()
    await lane.redis.zadd(lane.key("ready"), {lease.entry: 5})
    await lane.redis.zadd(lane.key("delayed"), {"lab/b/000001": 9e15})
    assert await queue.audit("lab/b", range(3)) == 2
    await lane.check(["lab/b"])
    places = await lane.places()
    assert (places["leased"], places["delayed"]) == ([lease.entry], [])
    assert (await queue.complete(lease, "w1", "SUCCEEDED")).accepted


async def test_I8_a_lease_that_lost_its_facts_is_queued_again(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    lease = await lane.lease_one()
    await lane.redis.delete(lane.key(f"entry:{lease.entry}"))
    assert await queue.audit("lab/b", [0]) == 1
    await lane.check(["lab/b"])
    assert (await lane.lease_one("w2")).index == 0


async def test_I2_an_audit_with_an_old_list_revives_no_slide(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    assert await queue.audit("lab/b", [0, 1]) == 0
    assert (await lane.snapshot("lab/b")).live == 1


async def test_an_audit_leaves_unsubmitted_slides_to_submit(lane: Lane, queue: Queue) -> None:
    await lane.open("lab/b", 3)
    await queue.submit("lab/b", [0], more=True)
    assert await queue.audit("lab/b", range(3)) == 0
    assert await queue.submit("lab/b", range(3)) == 2


async def test_an_audit_of_a_stopping_batch_ends_what_it_finds(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    await lane.redis.zrem(lane.key("ready"), "lab/b/000001")
    await queue.cancel("lab/b")
    assert await queue.drained() == []
    assert await queue.audit("lab/b", [0, 1]) == 1
    assert (await lane.snapshot("lab/b")).cancelled == 2
    assert await queue.drained() == ["lab/b"]


async def test_an_audit_of_a_lost_batch_is_unavailable(queue: Queue) -> None:
    with pytest.raises(Unavailable):
        await queue.audit("lab/gone", [0])
