"""Which Redis may hold the queue."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from gramserve.errors import Reason, Unsafe
from gramserve.queue import Queue


@pytest.fixture
async def changed(redis: Redis) -> AsyncIterator[Redis]:
    yield redis
    await redis.config_set("maxmemory-policy", "noeviction")
    await redis.config_set("save", "")
    await redis.config_set("appendonly", "yes")
    await redis.slaveof()


async def test_I15_the_embedded_redis_is_safe(queue: Queue) -> None:
    await queue.check_safe(allow_volatile=False)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_I15_a_redis_that_evicts_is_refused(changed: Redis, queue: Queue, policy: str) -> None:
    await changed.config_set("maxmemory-policy", policy)
    with pytest.raises(Unsafe, match="noeviction") as caught:
        await queue.check_safe(allow_volatile=True)
    assert caught.value.reason is Reason.UNSAFE_REDIS
    assert caught.value.metadata["maxmemory_policy"] == policy


async def test_I15_a_redis_without_persistence_is_refused_unless_that_is_allowed(changed: Redis, queue: Queue) -> None:
    await changed.config_set("appendonly", "no")
    with pytest.raises(Unsafe, match="persistence"):
        await queue.check_safe(allow_volatile=False)
    await queue.check_safe(allow_volatile=True)
    await changed.config_set("save", "60 1")
    await queue.check_safe(allow_volatile=False)


async def test_I15_all_that_is_wrong_is_said_at_once(changed: Redis, queue: Queue) -> None:
    await changed.config_set("appendonly", "no")
    await changed.config_set("maxmemory-policy", "allkeys-random")
    with pytest.raises(Unsafe, match=r"noeviction.*persistence"):
        await queue.check_safe(allow_volatile=False)


async def test_I15_a_replica_is_refused(changed: Redis, queue: Queue) -> None:
    await changed.slaveof("127.0.0.1", 1)
    with pytest.raises(Unsafe, match="replica"):
        await queue.check_safe(allow_volatile=False)


async def test_the_server_says_who_it_is(queue: Queue) -> None:
    first, second = await queue.server(), await queue.server()
    assert first.run_id == second.run_id
    assert first.time_s <= second.time_s
    assert first.uptime_s >= 0
