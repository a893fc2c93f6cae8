"""How much memory the Redis behind the queue uses, and how much it may."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis

from gramserve.queue.connection import translated


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that Redis uses for its data and itself, and those it may use; a `limit_bytes` of 0 is none."""

    used_bytes: int
    limit_bytes: int


async def memory(redis: Redis) -> Memory:
    """As Redis says now (INFO memory). Raises Unavailable."""
    with translated():
        facts: dict[str, Any] = await redis.info("memory")
    return Memory(int(facts["used_memory"]), int(facts.get("maxmemory", 0)))
