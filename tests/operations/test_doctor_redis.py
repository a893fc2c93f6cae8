"""What the doctor says of a Redis, a real one, that is not fit or not well."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from gramserve.queue import EmbeddedRedis, Queue, connect
from tests.faults.clock import MovedClock
from tests.faults.proxy import fault_proxy
from tests.operations.doctor import doctor
from tests.services import redis_server
from tests.waiting import until


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with redis_server(tmp_path / "redis") as running:
        yield running


@pytest.fixture
async def redis(server: EmbeddedRedis) -> AsyncIterator[Redis]:
    async with aclosing(connect(server.url)) as client:
        yield client


async def test_a_redis_that_is_fit_passes_every_check(server: EmbeddedRedis, tmp_path: Path) -> None:
    said = await doctor(tmp_path, "--redis-url", server.url)
    names = [name for name in said.checks if "redis" in name or name == "queue format"]
    assert names == [
        "redis", "redis persistence", "redis memory", "redis latency", "clock of redis", "queue format",
    ]  # fmt: skip
    assert {said.health(name) for name in names} == {"ok"}


async def test_a_redis_that_evicts_fails(server: EmbeddedRedis, redis: Redis, tmp_path: Path) -> None:
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    said = await doctor(tmp_path, "--redis-url", server.url)
    assert (said.code, said.health("redis")) == (1, "failed")
    assert "set noeviction" in said.found("redis")


async def test_a_redis_without_persistence_fails_unless_that_is_allowed(
    server: EmbeddedRedis, redis: Redis, tmp_path: Path
) -> None:
    await redis.config_set("appendonly", "no")
    said = await doctor(tmp_path, "--redis-url", server.url)
    assert (said.code, said.health("redis")) == (1, "failed")
    allowed = {"GRAMSERVE_ALLOW_VOLATILE_REDIS": "true"}
    said = await doctor(tmp_path, "--redis-url", server.url, environment=allowed)
    assert (said.health("redis"), said.health("redis persistence")) == ("ok", "warning")
    assert "appendonly yes" in said.advice("redis persistence")


async def test_a_redis_that_could_not_write_its_snapshot_fails(
    server: EmbeddedRedis, redis: Redis, tmp_path: Path
) -> None:
    (tmp_path / "redis" / "taken").mkdir()
    await redis.config_set("dbfilename", "taken")
    await redis.bgsave()

    async def failed() -> bool:
        return (await redis.info("persistence"))["rdb_last_bgsave_status"] == "err"

    await until(failed)
    said = await doctor(tmp_path, "--redis-url", server.url)
    assert (said.code, said.health("redis persistence")) == (1, "failed")
    assert "disk is full" in said.advice("redis persistence")


async def test_a_redis_that_is_nearly_full_is_a_warning(server: EmbeddedRedis, redis: Redis, tmp_path: Path) -> None:
    used = (await redis.info("memory"))["used_memory"]
    await redis.config_set("maxmemory", used + 200_000)
    said = await doctor(tmp_path, "--redis-url", server.url)
    assert (said.code, said.health("redis memory")) == (0, "warning")
    assert "raise maxmemory" in said.advice("redis memory")


async def test_a_redis_that_is_far_away_is_a_warning(server: EmbeddedRedis, tmp_path: Path) -> None:
    async with fault_proxy(server.url, tmp_path) as proxy:
        proxy.delay_s = 0.01
        said = await doctor(tmp_path, "--redis-url", proxy.url)
    assert (said.code, said.health("redis latency")) == (0, "warning")


@pytest.mark.parametrize(("moved_s", "health"), [(10.0, "warning"), (-3600.0, "failed")])
async def test_a_redis_whose_clock_is_another(moved_s: float, health: str, tmp_path: Path) -> None:
    clock = MovedClock(tmp_path / "clock")
    clock.move(moved_s)
    async with redis_server(tmp_path / "redis", launcher=clock.launcher) as server:
        said = await doctor(tmp_path, "--redis-url", server.url)
    assert said.health("clock of redis") == health
    assert "ahead of" in said.found("clock of redis") if moved_s > 0 else "behind" in said.found("clock of redis")
    assert "NTP" in said.advice("clock of redis")


async def test_a_redis_with_the_queue_of_another_release_fails(
    server: EmbeddedRedis, redis: Redis, tmp_path: Path
) -> None:
    queue = Queue(redis, "slides")
    await queue.open("lab/b", round=0, total=1, priority_stat=False, due_s=2e9, version="v", digest="d")
    await queue.aclose()
    assert (await doctor(tmp_path, "--redis-url", server.url)).health("queue format") == "ok"
    await redis.set("{gs:slides}:format", "2")
    said = await doctor(tmp_path, "--redis-url", server.url)
    assert (said.code, said.health("redis"), said.health("queue format")) == (1, "ok", "failed")
    assert "FLUSHDB" in said.found("queue format")


async def test_what_is_no_url_fails(tmp_path: Path) -> None:
    said = await doctor(tmp_path, "--redis-url", "localhost:6379")
    assert (said.code, said.health("redis")) == (1, "failed")
