"""What is kept for how long: batches that are gone, and the loop that lets things go."""

from __future__ import annotations

from gateway.names import BatchName
from gramserve import log
from gramserve.errors import NotFound, Reason
from gramserve.metrics import Metrics
from gramserve.store.batches import BatchStore
from gramserve.store.purge import Purger


class Retention:
    """Purges again and again what is older than it may be; several gateways may do so at once."""

    def __init__(self, purger: Purger, metrics: Metrics) -> None:
        self._purger = purger
        self._metrics = metrics
        self._log = log.get()

    async def step(self) -> None:
        """One look at everything; raises what the store raises, and goes on at the next call."""
        purged = await self._purger.purge()
        found = {kind: count for kind, count in purged.items() if count}
        for kind, count in found.items():
            self._metrics.count("purged", count, kind=kind)
        if found:
            self._log.info("purged at the end of their retention", **found)
        if self._purger.damaged:
            self._log.warning("damaged records are not purged", records=self._purger.damaged)


async def check_kept(batches: BatchStore, name: BatchName) -> None:
    """Raises NotFound (BATCH_PURGED) when the batch was purged."""
    if await batches.is_purged(name.laboratory, name.batch):
        raise NotFound(Reason.BATCH_PURGED, "the batch was deleted at the end of its retention")
