"""Keeping the queue true to the store: every batch that was accepted and has not ended is tended."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.names import BatchName
from gateway.tend import Care, Tender
from gramserve.metrics import Metrics
from gramserve.queue import ContactWatch, Queue
from gramserve.store.batches import BatchStore

_PLACES = ("ready_stat", "ready_routine", "leased", "delayed")


class Reconciler:
    """Knows which batches are open. Every `scan_interval_s` it searches the store for those that others accepted."""

    def __init__(
        self,
        batches: BatchStore,
        queue: Queue,
        contact: ContactWatch,
        tender: Tender,
        metrics: Metrics,
        *,
        scan_interval_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batches = batches
        self._queue = queue
        self._contact = contact
        self._tender = tender
        self._metrics = metrics
        self._scan_interval_s = scan_interval_s
        self._monotonic = monotonic
        self._open: dict[BatchName, Care] = {}
        self._scan_at = float("-inf")
        self._restarts = contact.restarts

    def look_after(self, name: BatchName) -> None:
        """Tend this batch from the next step on, beginning with a comparison of queue and store."""
        self._open[name] = Care(since=self._monotonic())

    async def step(self) -> None:
        """One look at every open batch."""
        if self._monotonic() >= self._scan_at:
            async for laboratory, batch in self._batches.unfinished():
                self.look_after(BatchName(laboratory, batch))
            self._scan_at = self._monotonic() + self._scan_interval_s
        if self._contact.restarts != self._restarts:  # what Redis wrote last before it went may be gone
            self._restarts = self._contact.restarts
            self._open = {name: Care(audit=True) for name in self._open}
        for name, care in list(self._open.items()):
            # Unless somebody called look_after meanwhile.
            if not await self._tender.tend(name, care) and self._open.get(name) is care:
                del self._open[name]
        await self._show_depth()

    async def _show_depth(self) -> None:
        depth = await self._queue.depth()
        for place in _PLACES:
            self._metrics.set("queue_depth", getattr(depth, place), place=place)
        self._metrics.set("queue_oldest_seconds", depth.oldest_stat_s, priority="stat")
        self._metrics.set("queue_oldest_seconds", depth.oldest_routine_s, priority="routine")
