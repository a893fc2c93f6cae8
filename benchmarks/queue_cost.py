"""What a slide costs in the queue while 1,000 and while 100,000 wait: time inside Redis and CPU of the client."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis

from benchmarks.report import spread
from gramserve.queue import EmbeddedRedis, Queue, Settlement, connect

T = TypeVar("T")

DEPTHS = (1_000, 100_000)
BATCH_SLIDES = 1_000
TURN_SLIDES = 64
TOGETHER = 4
OPERATIONS = ("submit", "lease", "complete")
WORKER = "benchmark"


class Lane:
    """A lane in which `depth` slides wait; each turn submits, leases and completes as many as one another."""

    def __init__(self, redis: Redis, depth: int) -> None:
        self._redis = redis
        self._queue = Queue(redis, f"depth-{depth}")
        self._depth = depth
        self._batches = itertools.count()
        self._spent: dict[str, list[tuple[float, float]]] = {name: [] for name in OPERATIONS}

    async def fill(self) -> None:
        """Queues what waits all the time."""
        for _ in range(self._depth // BATCH_SLIDES):
            await self._queue.submit(await self._open(BATCH_SLIDES), range(BATCH_SLIDES))

    async def turn(self) -> None:
        """One measurement of each operation."""
        batch = await self._open(TURN_SLIDES)
        spent = dict.fromkeys(OPERATIONS, (0.0, 0.0))
        await self._measured(spent, "submit", self._queue.submit(batch, range(TURN_SLIDES)))
        for _ in range(TURN_SLIDES // TOGETHER):
            leases = await self._measured(spent, "lease", self._queue.lease(WORKER, TOGETHER, idle=True))
            ends = [Settlement(lease, "SUCCEEDED") for lease in leases]
            await self._measured(spent, "complete", self._queue.complete_many(WORKER, ends))
        for name, total in spent.items():
            self._spent[name].append(total)

    def forget(self) -> None:
        """What was measured so far was the warm-up."""
        for turns in self._spent.values():
            turns.clear()

    def figures(self) -> dict[str, dict[str, dict[str, float]]]:
        """Microseconds per slide of each operation, inside Redis and in the client."""
        return {
            name: {
                "redis_us": spread([redis_us / TURN_SLIDES for redis_us, _ in turns]),
                "client_us": spread([client_us / TURN_SLIDES for _, client_us in turns]),
            }
            for name, turns in self._spent.items()
        }

    async def close(self) -> None:
        """Closes what the queue opened."""
        await self._queue.aclose()

    async def _open(self, total: int) -> str:
        batch = f"laboratory/batch-{next(self._batches):06d}"
        await open_batch(self._queue, batch, total)
        return batch

    async def _measured(self, spent: dict[str, tuple[float, float]], name: str, operation: Awaitable[T]) -> T:
        redis_before, client_before = await self._redis_us(), time.process_time()
        result = await operation
        client_us = 1e6 * (time.process_time() - client_before)
        redis_us = await self._redis_us() - redis_before
        spent[name] = (spent[name][0] + redis_us, spent[name][1] + client_us)
        return result

    async def _redis_us(self) -> float:
        found: dict[str, Any] = await self._redis.info("commandstats")
        return float(found.get("cmdstat_evalsha", {}).get("usec", 0.0))


async def open_batch(queue: Queue, batch: str, total: int) -> None:
    """A routine batch of `total` slides that is known to Redis."""
    await queue.open(
        batch,
        round=0,
        total=total,
        priority_stat=False,
        due_s=1_900_000_000.0,
        version="models/bench/versions/1",
        digest="0" * 64,
        fresh=True,
    )


@asynccontextmanager
async def lanes() -> AsyncIterator[dict[int, Lane]]:
    """A filled lane of each depth on one Redis of their own."""
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedRedis(Path(folder) / "redis")
        await server.start()
        redis = connect(server.url, timeout_s=10.0)
        found = {depth: Lane(redis, depth) for depth in DEPTHS}
        try:
            for lane in found.values():
                await lane.fill()
            yield found
        finally:
            for lane in found.values():
                await lane.close()
            await redis.aclose()
            await server.stop()


async def _measure(rounds: int) -> dict[str, Any]:
    async with lanes() as found:
        for number in range(rounds + 1):
            for lane in found.values():
                await lane.turn()
                if number == 0:
                    lane.forget()
        shallow, deep = (lane.figures() for lane in found.values())
    return {
        "depths": list(DEPTHS),
        "us_per_slide": {str(depth): lane.figures() for depth, lane in found.items()},
        "deep_over_shallow": {
            name: {kind: deep[name][kind]["median"] / shallow[name][kind]["median"] for kind in deep[name]}
            for name in OPERATIONS
        },
        "all_deep_over_shallow": {
            kind: statistics.fsum(deep[name][kind]["median"] for name in OPERATIONS)
            / statistics.fsum(shallow[name][kind]["median"] for name in OPERATIONS)
            for kind in ("redis_us", "client_us")
        },
    }


def measure(rounds: int = 40) -> dict[str, Any]:
    """`rounds` turns at each depth, one after the other on the same server; ratios of medians."""
    return asyncio.run(_measure(rounds))


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
