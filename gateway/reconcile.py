"""Keeping the queue true to the store: every batch that was accepted and has not ended is tended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from gateway.aside import Aside
from gateway.names import BatchName
from gateway.tend import Care, Tender
from gramserve.queue import ContactWatch, Queue
from gramserve.store.batches import BatchStore


class Reconciler:
    """Knows which batches are open: those that were accepted here, and others.

    Every `find_interval_s` it looks for those that other gateways accepted, and every `scan_interval_s` it compares all
    open batches with the queue.
    """

    def __init__(
        self,
        batches: BatchStore,
        queue: Queue,
        contact: ContactWatch,
        tender: Tender,
        *,
        scan_interval_s: float,
        find_interval_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batches = batches
        self._queue = queue
        self._contact = contact
        self._tender = tender
        self._scan_interval_s = scan_interval_s
        self._find_interval_s = find_interval_s
        self._monotonic = monotonic
        self._open: dict[BatchName, Care] = {}
        self._scan_at = self._find_at = float("-inf")
        self._met: set[BatchName] = set()
        self._restarts = contact.restarts

    def look_after(self, name: BatchName) -> None:
        """Tend this batch from the next step on, beginning with a comparison of queue and store."""
        self._open[name] = self._anew(name)

    async def step(self) -> None:
        """One look at every open batch; what one of them raises is raised after that."""
        if self._monotonic() >= self._scan_at:
            async for laboratory, batch in self._batches.unfinished():
                self.look_after(BatchName(laboratory, batch))
            self._scan_at = self._monotonic() + self._scan_interval_s
        if self._monotonic() >= self._find_at:
            await self._find()
            self._find_at = self._monotonic() + self._find_interval_s
        if self._contact.restarts != self._restarts:  # what Redis wrote last before it went may be gone
            self._restarts = self._contact.restarts
            self._open = {name: replace(self._anew(name), audit=True) for name in self._open}
        failures = Aside()
        for name, care in list(self._open.items()):
            with failures.put():
                # Unless somebody called look_after meanwhile.
                if not await self._tender.tend(name, care) and self._open.get(name) is care:
                    del self._open[name]
        failures.tell()

    async def _find(self) -> None:
        """Looks after what others accepted when it is met again: by then they have queued it, unless they died."""
        marked = {BatchName(laboratory, batch) async for laboratory, batch, _ in self._batches.open_rounds.marked()}
        strange = marked - self._open.keys()
        for name in strange & self._met:
            self.look_after(name)
        self._met = strange

    def _anew(self, name: BatchName) -> Care:
        """Nothing remembered but what is shown until the next look."""
        known = self._open.get(name, Care())
        return Care(since=self._monotonic(), deliver_by=known.deliver_by, unfinished=known.unfinished)

    def unfinished(self) -> list[tuple[float | None, int]]:
        """Of every open batch at its last look when it is due (Unix seconds, None: never) and the slides not ended."""
        return [(care.deliver_by, care.unfinished) for care in self._open.values()]
