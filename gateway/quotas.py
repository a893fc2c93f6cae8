"""How much one laboratory may have waiting and open, so that no laboratory takes the queue from all others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from gateway.names import BatchName
from gramserve.errors import Exhausted, Reason
from gramserve.queue import Queue
from gramserve.store.batches import BatchStore
from gramserve.store.codec import RecordCorrupt
from gramserve.store.records import Priority

RETRY_AFTER_S = 30.0


@dataclass(slots=True)
class _Ledger:
    """What this gateway accepts for a laboratory and priority: begun, and settled, since somebody was `inside`."""

    inside: int = 0
    begun_batches: int = 0
    begun_slides: int = 0
    settled_batches: int = 0
    settled_slides: int = 0


class Quotas:
    """Bounds for each laboratory and priority: `slides` that wait or run, and `batches` that have not ended. 0: none.

    STAT and ROUTINE have a quota each, so that the night's backlog of a laboratory never refuses its urgent slide.
    """

    def __init__(self, batches: BatchStore, queue: Queue, *, slides: int, batches_open: int) -> None:
        self._batches = batches
        self._queue = queue
        self._slides = slides
        self._batches_open = batches_open
        self._ledgers: dict[tuple[str, Priority], _Ledger] = {}

    @asynccontextmanager
    async def room(self, laboratory: str, priority: Priority, slides: int) -> AsyncIterator[None]:
        """Room for one more batch of `slides`, kept until the end of the block, when the store has the batch.

        Between gateways nothing is kept: together they may go over the quota by what they accept at that moment.
        Raises Exhausted (LABORATORY_QUOTA), Unavailable.
        """
        if not (self._slides or self._batches_open):
            yield
            return
        key = (laboratory, priority)
        ledger = self._ledgers.setdefault(key, _Ledger())
        ledger.inside += 1
        # What is accepted while we read may be read or not: it counts either way.
        settled_batches, settled_slides = ledger.settled_batches, ledger.settled_slides
        try:
            open_batches, waiting = await self._taken(laboratory, priority)
            open_batches += ledger.begun_batches - settled_batches
            left = self._slides - waiting - (ledger.begun_slides - settled_slides)
            if self._batches_open and open_batches >= self._batches_open:
                raise _full(
                    f"the laboratory has {self._batches_open} batches of this priority open, which is its quota"
                )
            if self._slides and slides > left:
                raise _full(f"the laboratory's quota has room for {max(left, 0)} slides of this priority")
            ledger.begun_batches += 1
            ledger.begun_slides += slides
            try:
                yield
            finally:
                ledger.settled_batches += 1
                ledger.settled_slides += slides
        finally:
            ledger.inside -= 1
            if not ledger.inside:
                del self._ledgers[key]

    async def _taken(self, laboratory: str, priority: Priority) -> tuple[int, int]:
        """The laboratory's open batches of a priority, and their slides that have not ended."""
        names = {batch async for _, batch, _ in self._batches.open_rounds.marked(laboratory)}
        live = await asyncio.gather(*(self._live(BatchName(laboratory, batch), priority) for batch in names))
        return sum(count is not None for count in live), sum(count or 0 for count in live)

    async def _live(self, name: BatchName, priority: Priority) -> int | None:
        """Slides of a batch that have not ended; None for one of another priority, or that was never accepted.

        None, too, for one whose record is damaged: it may not keep its laboratory from working.
        """
        try:
            record = await self._batches.get_batch(name.laboratory, name.batch)
        except RecordCorrupt:
            return None
        if record is None or record.priority is not priority:
            return None
        snapshot = await self._queue.snapshot(name.key)
        if snapshot is None or not snapshot.submitted:  # about to be queued, all of it
            return record.slide_count
        return snapshot.live


def _full(what: str) -> Exhausted:
    return Exhausted(Reason.LABORATORY_QUOTA, f"{what}; try again later", retry_after_s=RETRY_AFTER_S)
