"""A worker without a model: leases, waits as long as a slide would take, writes its outcome, completes.

Run as `python -m benchmarks.stand_in STORE REDIS_URL SLIDES_PER_S CHILDREN`; ends at SIGTERM. It asks the queue and the
store for what a real worker asks, so gateway and Redis can be measured where there is no artifact to run.
"""

from __future__ import annotations

import asyncio
import sys
import time

from gramserve.queue import Lease, Queue, Settlement, connect
from gramserve.store.batches import BatchStore
from gramserve.store.objects import open_store
from gramserve.store.records import OutcomeRecord, SlideState

WORKER = "stand-in"
CALL = {
    "outcome": "ORGANISMS_SEEN",
    "findings": [
        {
            "label": "GNR",
            "probability": 0.9731,
            "tile_count": 1,
            "evidence": [{"image_index": 0, "x": 0, "y": 0, "width": 224, "height": 224, "probability": 0.9812}],
        }
    ],
    "tile_count": 1,
    "review_reasons": [],
    "unassessable_reason": "",
}


class StandIn:
    """Runs `children` slides at a time, `slides_per_s` over all of them, and holds as many again."""

    def __init__(self, queue: Queue, batches: BatchStore, slides_per_s: float, children: int) -> None:
        self._queue = queue
        self._batches = batches
        self._slide_s = children / slides_per_s
        self._room = 2 * children
        self._children = asyncio.Semaphore(children)
        self._changed = asyncio.Event()
        self._due: list[Settlement] = []
        self._completing: asyncio.Task[None] | None = None
        self._held: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """For ever."""
        bell: asyncio.Task[None] | None = None
        while True:
            self._changed.clear()
            room = self._room
            leases = await self._queue.lease(WORKER, room, idle=not self._held) if room else []
            for lease in leases:
                self._room -= 1
                task = asyncio.create_task(self._slide(lease))
                self._held.add(task)
                task.add_done_callback(self._held.discard)
            if len(leases) == room:
                await self._changed.wait()
                continue
            bell = bell or asyncio.create_task(self._queue.wait_ready(1.0))
            changed = asyncio.create_task(self._changed.wait())
            await asyncio.wait({bell, changed}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            bell = None if bell.done() else bell

    async def _slide(self, lease: Lease) -> None:
        async with self._children:
            await asyncio.sleep(self._slide_s)
        self._room += 1
        self._changed.set()
        laboratory, _, batch = lease.batch.partition("/")
        outcome = OutcomeRecord(
            index=lease.index,
            round=lease.round,
            state=SlideState.SUCCEEDED,
            call=CALL,
            worker_id=WORKER,
            artifact_digest=lease.digest,
            engine="none",
            queue_s=lease.queued_s,
            inference_s=0.005,
            time=time.time(),
        )
        await self._batches.record_outcome(laboratory, batch, outcome)
        self._due.append(Settlement(lease, "SUCCEEDED"))
        if self._completing is None:
            self._completing = asyncio.create_task(self._complete())

    async def _complete(self) -> None:
        while self._due:
            due, self._due = self._due, []
            await self._queue.complete_many(WORKER, due)
        self._completing = None


async def main(store: str, redis_url: str, slides_per_s: str, children: str) -> None:
    """One stand-in on a stack."""
    queue = Queue(connect(redis_url), "slides")
    await StandIn(queue, BatchStore(open_store(store)), float(slides_per_s), int(children)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
