"""What the gateway shows of the system as it stands: the queue, what is due when, Redis and the store."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from redis.asyncio import Redis

from gramserve.metrics import Metrics
from gramserve.queue import Queue, memory

_PLACES = ("ready_stat", "ready_routine", "leased", "delayed")
_WITHIN_S = {"15m": 900, "1h": 3600, "2h": 7200, "4h": 14_400, "8h": 28_800, "16h": 57_600, "any": float("inf")}


class Gauges:
    """Sets the gauges of the queue at every step, and shows the sizes of a local store from its start.

    `unfinished` gives (due time or None, slides not ended) of every open batch; `folder` is that of a local store, ""
    where it is remote. `clock` gives Unix seconds.
    """

    def __init__(
        self,
        queue: Queue,
        redis: Redis,
        metrics: Metrics,
        *,
        unfinished: Callable[[], Iterable[tuple[float | None, int]]],
        folder: str,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._redis = redis
        self._metrics = metrics
        self._unfinished = unfinished
        self._clock = clock
        if folder:
            metrics.follow("store_size_bytes", lambda: _space(folder)[0])
            metrics.follow("store_free_bytes", lambda: _space(folder)[1])

    async def step(self) -> None:
        """Look once. Raises Unavailable when Redis does not answer; what the gauges say is then old."""
        self._show_due()
        depth = await self._queue.depth()
        for place in _PLACES:
            self._metrics.set("queue_depth", getattr(depth, place), place=place)
        self._metrics.set("queue_oldest_seconds", depth.oldest_stat_s, priority="STAT")
        self._metrics.set("queue_oldest_seconds", depth.oldest_routine_s, priority="ROUTINE")
        used = await memory(self._redis)
        self._metrics.set("redis_memory_bytes", used.used_bytes)
        self._metrics.set("redis_memory_limit_bytes", used.limit_bytes)

    def _show_due(self) -> None:
        now_s = self._clock()
        waiting = [(float("inf") if due_s is None else due_s - now_s, slides) for due_s, slides in self._unfinished()]
        for within, most_s in _WITHIN_S.items():
            self._metrics.set(
                "slides_due", sum(slides for left_s, slides in waiting if left_s <= most_s), within=within
            )


def _space(folder: str) -> tuple[int | None, int | None]:
    """Bytes of the file system below `folder`, and those of them that are free for us; None where it is away."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None, None
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
