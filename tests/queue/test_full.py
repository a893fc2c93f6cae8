"""A Redis whose memory is full."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gramserve.errors import Exhausted, Reason
from gramserve.queue import Queue, RenewStatus
from tests.queue.lane import Lane


@pytest.fixture
async def full(redis: Redis, lane: Lane) -> AsyncIterator[Lane]:
    """A lane with a batch of 9 slides and one that is still empty, on a server that has no memory left."""
    await lane.fill("lab/b", 9)
    await lane.open("lab/open", 5)
    await redis.config_set("maxmemory", "1")
    yield lane
    await redis.config_set("maxmemory", "0")


async def test_I10_filling_is_refused_by_name(full: Lane) -> None:
    for call in (full.open("lab/new", 1), full.queue.submit("lab/open", range(5))):
        with pytest.raises(Exhausted) as caught:
            await call
        assert caught.value.reason is Reason.QUEUE_FULL
        assert caught.value.retry_after_s
    assert await full.queue.snapshot("lab/new") is None
    assert (await full.snapshot("lab/open")).live == 0


async def test_I10_a_full_queue_can_be_emptied(full: Lane) -> None:
    queue: Queue = full.queue
    done, failed, crashed, released, lost, *_ = leases = await queue.lease("w1", 7, idle=True)
    assert await queue.renew("w1", leases) == [RenewStatus.OK] * 7
    assert (await queue.complete(done, "w1", "SUCCEEDED")).accepted
    assert not (await queue.complete(done, "w1", "SUCCEEDED")).accepted
    assert await queue.fail(failed, "w1", crash=False, delay_s=60)
    assert await queue.fail(crashed, "w1", crash=True, delay_s=0)
    assert await queue.release([released], "w1") == 1
    await full.redis.zrem(full.key("ready"), released.entry)
    assert await queue.audit("lab/b", [released.index]) == 1
    await full.redis.config_set("maxmemory", "0")
    await full.let_leases_run_out_for(lost.entry)
    await full.redis.config_set("maxmemory", "1")
    assert (await queue.reclaim("sweeper")).requeued == 1
    await queue.drain("w9")
    assert await queue.cancel("lab/b") == 6
    for lease in leases[5:]:
        assert (await queue.complete(lease, "w1", "FAILED")).accepted
    await full.check(["lab/b"])
    assert await queue.drained() == ["lab/b"]
    assert await queue.finish("lab/b", "CANCELLED")


async def test_I10_what_was_refused_is_accepted_when_there_is_memory_again(full: Lane) -> None:
    with pytest.raises(Exhausted):
        await full.queue.submit("lab/open", range(5))
    await full.redis.config_set("maxmemory", "0")
    assert await full.queue.submit("lab/open", range(5)) == 5
