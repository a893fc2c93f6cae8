"""A lane of the queue under test: short ways to fill it, to let time pass and to look behind its face."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis

from gramserve.queue import Done, Lease, Queue, Snapshot

DUE_S = 1_900_000_000.0
VERSION, DIGEST = "models/gram/versions/3", "d" * 64
PLACES = ("ready", "leased", "delayed")


class Lane:
    """One lane on a real server."""

    def __init__(self, redis: Redis, *, name: str | None = None, **options: Any) -> None:
        self.redis: Any = redis
        self.name = name or f"lane-{uuid.uuid4().hex[:8]}"
        self.queue = Queue(redis, self.name, **options)

    def key(self, name: str) -> str:
        return f"{{gs:{self.name}}}:{name}"

    async def open(self, batch: str, total: int, **options: Any) -> bool:
        arguments: dict[str, Any] = {
            "round": 0,
            "priority_stat": False,
            "due_s": DUE_S,
            "version": VERSION,
            "digest": DIGEST,
            "fresh": True,
            "done": Done(),
        }
        return await self.queue.open(batch, total=total, **{**arguments, **options})

    async def fill(self, batch: str, total: int, **options: Any) -> None:
        """Opens a batch and submits all its slides."""
        assert await self.open(batch, total, **options)
        assert await self.queue.submit(batch, range(total)) == total

    async def lease_one(self, worker: str = "w1", *, idle: bool = True) -> Lease:
        (lease,) = await self.queue.lease(worker, 1, idle=idle)
        return lease

    async def snapshot(self, batch: str) -> Snapshot:
        found = await self.queue.snapshot(batch)
        assert found is not None
        return found

    async def events(self, batch: str, after: int = 0) -> list[tuple[int, str]]:
        return [(event.index, event.state) for event in await self.queue.events(batch, after, 100_000)]

    async def let_leases_run_out(self) -> None:
        for entry in await self.redis.zrange(self.key("leased"), 0, -1):
            await self.redis.zadd(self.key("leased"), {entry: 0})

    async def let_leases_run_out_for(self, entry: str) -> None:
        await self.redis.zadd(self.key("leased"), {entry: 0})

    async def let_delays_pass(self) -> None:
        for entry in await self.redis.zrange(self.key("delayed"), 0, -1):
            await self.redis.zadd(self.key("delayed"), {entry: 0})

    async def let_hard_due_pass(self, batch: str) -> None:
        await self.redis.hset(self.key(f"batch:{batch}"), "hard_ms", 1)

    async def let_claims_pass(self, entry: str) -> None:
        await self.redis.hset(self.key(f"entry:{entry}"), "claimed_until", 1)

    async def places(self) -> dict[str, list[str]]:
        """Which entries stand in which set."""
        return {place: await self.redis.zrange(self.key(place), 0, -1) for place in PLACES}

    async def keys(self) -> list[str]:
        """The keys of the lane, without its tag."""
        prefix = self.key("")
        return sorted([str(key).removeprefix(prefix) async for key in self.redis.scan_iter(f"{prefix}*")])

    async def check(self, batches: Sequence[str]) -> None:
        """The invariants that hold between any two transitions."""
        places = await self.places()
        entries = [entry for place in PLACES for entry in places[place]]
        assert len(entries) == len(set(entries)), "I8: a slide is in one place"
        for batch in batches:
            seen = await self.snapshot(batch)
            mine = [entry for entry in entries if entry.rpartition("/")[0] == batch]
            running = [entry for entry in places["leased"] if entry.rpartition("/")[0] == batch]
            ended = seen.succeeded + seen.failed + seen.cancelled + seen.expired
            assert seen.queued + seen.running + ended == seen.total
            assert seen.live == len(mine) == await self.redis.bitcount(self.key(f"pending:{batch}"))
            assert seen.running == len(running)
            assert seen.queued >= 0
            if seen.submitted:
                assert seen.queued == len(mine) - len(running)
