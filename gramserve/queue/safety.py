"""Says whether a Redis is fit to hold the queue."""

from __future__ import annotations

from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from gramserve.errors import Reason, Unsafe
from gramserve.queue.connection import translated
from gramserve.queue.format import FORMAT, other_format
from gramserve.queue.states import Server

OLDEST = (6, 2)


async def server(redis: Redis, lane: str = "") -> Server:
    """Which Redis process this is, its uptime and its clock, in seconds; raises as `check_format` for a `lane`."""
    if lane:
        await check_format(redis, lane)
    with translated():
        facts: dict[str, Any] = await redis.info("server")
        seconds, microseconds = await cast("Any", redis.time())
    return Server(
        run_id=str(facts["run_id"]),
        uptime_s=float(facts["uptime_in_seconds"]),
        time_s=seconds + microseconds / 1e6,
    )


async def check(redis: Redis, *, allow_volatile: bool, lane: str = "") -> None:
    """Raises `Unsafe(UNSAFE_REDIS)` naming all that is wrong with this Redis (I15).

    It must be 6.2 or newer, take writes, never evict (`maxmemory-policy noeviction`), and write to disk (append-only
    file or snapshots) unless `allow_volatile`. A server that hides its configuration is judged by what INFO shows. A
    `lane` in it must be one of this release, see `check_format`.
    """
    with translated():
        facts: dict[str, Any] = await redis.info()
        snapshots = await _snapshots(redis)
    problems = []
    version = str(facts["redis_version"])
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        problems.append(f"its version {version} is older than {OLDEST[0]}.{OLDEST[1]}")
    if facts.get("role") != "master":
        problems.append("it is a read-only replica")
    policy = str(facts.get("maxmemory_policy", "unknown"))
    if policy != "noeviction":
        problems.append(f"its maxmemory-policy is {policy}: it would delete queued slides; set noeviction")
    if not (facts.get("aof_enabled") or snapshots or allow_volatile):
        problems.append("its persistence is off: set appendonly yes, or allow a volatile queue explicitly")
    if problems:
        raise Unsafe(
            Reason.UNSAFE_REDIS,
            "this Redis is not fit to hold the queue: " + "; ".join(problems),
            metadata={"redis_version": version, "maxmemory_policy": policy},
        )
    if lane:
        await check_format(redis, lane)


async def check_format(redis: Redis, lane: str) -> None:
    """Raises `Unsafe(UNSAFE_REDIS)` when another release of gramserve keeps the lane here, in another format."""
    with translated():
        there = await redis.get(f"{{gs:{lane}}}:format")
    if there not in {None, FORMAT}:
        raise other_format(str(there))


async def _snapshots(redis: Redis) -> bool:
    try:
        found = await redis.config_get("save")
    except ResponseError:  # hosted servers forbid CONFIG
        return False
    return bool(found.get("save"))
