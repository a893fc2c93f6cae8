"""The schedule of optimizations: into the queue, and back into it when the queue lost them."""

from __future__ import annotations

from gramserve import log
from gramserve.metrics import Metrics
from gramserve.queue import Queue
from optimizer_svc.ending import Ending
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.records import OptimizationRecord

DUE_S = 24 * 3600.0


class Schedule:
    """Keeps the queue in line with the store, which is the truth."""

    def __init__(self, queue: Queue, optimizations: Optimizations, ending: Ending, metrics: Metrics) -> None:
        self._queue = queue
        self._optimizations = optimizations
        self._ending = ending
        self._metrics = metrics
        self._closed: set[str] = set()
        self._log = log.get()

    async def enqueue(self, record: OptimizationRecord, *, fresh: bool) -> bool:
        """Queues an optimization; a repeat queues nothing. Returns whether the queue did not know it."""
        opened = await self._queue.open(
            record.optimization,
            round=0,
            total=1,
            priority_stat=False,
            due_s=record.create_time + DUE_S,
            version="",
            digest="",
            accepted_s=record.create_time,
            fresh=fresh,
        )
        await self._queue.submit(record.optimization, [0])
        return opened

    async def reconcile(self) -> None:
        """Brings every optimization to its place: one without an end is queued, an ended one is forgotten by Redis."""
        for record in await self._optimizations.newest_first():
            if record.optimization not in self._closed:
                await self._reconcile(record)

    async def _reconcile(self, record: OptimizationRecord) -> None:
        optimization = record.optimization
        end = await self._optimizations.end(optimization)
        snapshot = await self._queue.snapshot(optimization)
        if end is not None:
            # One that still waits or runs is settled by whoever leases it next, or by its sweeper.
            if snapshot is None or snapshot.live == 0:
                await self._ending.close(optimization, end)
                self._closed.add(optimization)
        elif await self._optimizations.cancel_asked(optimization):
            await self._ending.cancel(optimization)
        elif await self.enqueue(record, fresh=False):
            self._repaired(optimization, "lost")
        elif await self._queue.audit(optimization, [0]):
            self._repaired(optimization, "misplaced")

    def _repaired(self, optimization: str, cause: str) -> None:
        self._metrics.count("reconcile_repairs", cause=cause)
        self._log.warning("optimization queued again", optimization=optimization, cause=cause)
