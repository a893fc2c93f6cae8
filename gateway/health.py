"""Whether this gateway can do its work: Redis answers and the store can be written."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gramserve import log
from gramserve.errors import GramserveError
from gramserve.metrics import Metrics
from gramserve.queue import ContactWatch, Queue
from gramserve.store.objects import ObjectStore


class HealthCheck:
    """Tells health clients SERVING only while both work, and `contact` what it sees of Redis."""

    def __init__(
        self,
        queue: Queue,
        objects: ObjectStore,
        contact: ContactWatch,
        metrics: Metrics,
        *,
        set_serving: Callable[[bool], Awaitable[None]],
        probe_interval_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._objects = objects
        self._contact = contact
        self._metrics = metrics
        self._set_serving = set_serving
        self._probe_interval_s = probe_interval_s
        self._monotonic = monotonic
        self._probe_at = float("-inf")
        self._store_works = False
        self._serving: bool | None = None
        self._log = log.get()

    async def step(self) -> None:
        """Look at both, and say so if it changed."""
        serving = await self._queue_answers() and await self._store_writes()
        if serving != self._serving:
            self._serving = serving
            self._log.info("serving" if serving else "not serving")
            await self._set_serving(serving)

    async def _queue_answers(self) -> bool:
        try:
            await self._contact.look(self._queue.server)
        except GramserveError:
            self._metrics.set("queue_contact", 0)
            return False
        self._metrics.set("queue_contact", 1)
        return True

    async def _store_writes(self) -> bool:
        # Often while it does not work, seldom while it does: a probe is two writes to disk.
        if not self._store_works or self._monotonic() >= self._probe_at:
            self._probe_at = self._monotonic() + self._probe_interval_s
            try:
                await self._objects.probe()
            except GramserveError:
                self._store_works = False
            else:
                self._store_works = True
        return self._store_works
