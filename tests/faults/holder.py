"""A worker that keeps slides for as long as a test likes: it leases, renews, and ends them when told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from gramserve.errors import GramserveError
from gramserve.queue import Lease, Queue, RenewStatus, connect
from gramserve.store.batches import BatchStore
from tests.faults.harness import Site
from tests.gateway.stack import outcome
from tests.waiting import until


class Holder:
    """Renews what it leased six times in a lease, as workers do, and keeps what it is told is LOST in `lost`."""

    def __init__(self, queue: Queue, batches: BatchStore, name: str) -> None:
        self.name = name
        self.held: list[Lease] = []
        self.lost: list[Lease] = []
        self.renewals = 0
        self._queue = queue
        self._batches = batches

    async def lease(self, count: int) -> None:
        """Takes `count` slides, which must be there."""
        self.held += await self._queue.lease(self.name, count, idle=True)
        assert len(self.held) == count

    async def renew_for_ever(self) -> None:
        """As long as the test holds."""
        while True:
            await asyncio.sleep(self._queue.lease_s / 6)
            with suppress(GramserveError):
                statuses = await self._queue.renew(self.name, self.held)
                self.renewals += 1
                pairs = list(zip(self.held, statuses, strict=True))
                self.lost += [lease for lease, status in pairs if status is RenewStatus.LOST]

    async def renewed(self, times: int) -> None:
        """Waits for so many more renewals that were answered."""
        enough = self.renewals + times
        await until(lambda: self.renewals >= enough)

    async def complete(self) -> int:
        """Ends all slides that are held, however long Redis is away; how many ends were accepted."""
        accepted = 0
        for lease in self.held:
            laboratory, _, batch = lease.batch.partition("/")
            await self._batches.record_outcome(laboratory, batch, outcome(lease, False, False, self.name))

            while True:
                try:
                    accepted += (await self._queue.complete(lease, self.name, "SUCCEEDED")).accepted
                    break
                except GramserveError:
                    await asyncio.sleep(0.05)
        self.held = []
        return accepted


@asynccontextmanager
async def holder(site: Site, count: int, *, url: str = "") -> AsyncIterator[Holder]:
    """A holder with `count` slides of this site, renewing."""
    client = connect(url or site.redis_url)
    queue = Queue(client, "slides", lease_s=site.lease_s)
    made = Holder(queue, site.batches, "holder")
    await made.lease(count)
    renewing = asyncio.create_task(made.renew_for_ever())
    try:
        yield made
    finally:
        renewing.cancel()
        with suppress(asyncio.CancelledError):
            await renewing
        await queue.aclose()
        await client.aclose()
