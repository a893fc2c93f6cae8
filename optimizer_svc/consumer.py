"""The two loops of the service: one leases optimizations and runs them, one keeps the queue in order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from gramserve import log
from gramserve.errors import GramserveError, Reason
from gramserve.metrics import Metrics
from gramserve.queue import ContactWatch, Lease, Queue
from optimizer_svc.ending import Ending
from optimizer_svc.jobs import Jobs
from optimizer_svc.schedule import Schedule

_MOST_SWEEP_S = 2.0


class Consumer:
    """Leases one optimization at a time; says through `on_contact` whether the queue answers (I11)."""

    def __init__(
        self,
        queue: Queue,
        worker: str,
        jobs: Jobs,
        ending: Ending,
        schedule: Schedule,
        metrics: Metrics,
        *,
        on_contact: Callable[[bool], Awaitable[None]],
        poll_s: float,
        reconcile_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._jobs = jobs
        self._ending = ending
        self._schedule = schedule
        self._metrics = metrics
        self._on_contact = on_contact
        self._poll_s = poll_s
        self._reconcile_s = reconcile_s
        self._sweep_s = min(queue.lease_s / 3, _MOST_SWEEP_S)
        self._monotonic = monotonic
        self._watch = ContactWatch(queue.lease_s, clock=monotonic)
        self._contact = True
        self._idle()
        self._stopping = asyncio.Event()
        self._log = log.get()

    def stop(self) -> None:
        """Lease nothing more; `consume` and `tidy` return when what runs has stopped."""
        self._stopping.set()
        self._jobs.stop()

    async def consume(self) -> None:
        """Leases and runs until `stop`."""
        while not self._stopping.is_set():
            if not await self._guarded(self._one()):
                await self._pause(self._poll_s)

    async def tidy(self) -> None:
        """Takes back dead leases, gives up what crashes, and repairs the queue, until `stop`."""
        due_s, restarts = self._monotonic(), 0
        while not self._stopping.is_set():
            if await self._guarded(self._sweep()) and (self._monotonic() >= due_s or self._watch.restarts != restarts):
                restarts = self._watch.restarts
                if await self._guarded(self._reconcile()):
                    due_s = self._monotonic() + self._reconcile_s
            await self._pause(self._sweep_s)

    async def _one(self) -> bool:
        leased_at_s = self._monotonic()
        leases = await self._queue.lease(self._worker, 1, idle=True)
        await self._answered(True)
        for lease in leases:
            await self._run(lease, leased_at_s)
        return bool(leases)

    async def _run(self, lease: Lease, leased_at_s: float) -> None:
        self._metrics.set("leases", 1)
        self._metrics.set("optimizations_running", 1)
        try:
            await self._jobs.run(lease, leased_at_s)
        finally:
            self._idle()

    def _idle(self) -> None:
        for name in ("leases", "optimizations_running", "optimization_progress"):
            self._metrics.set(name, 0)

    async def _sweep(self) -> bool:
        server = await self._watch.look(self._queue.server)
        await self._answered(True)
        if self._watch.settled:
            reclaimed = await self._queue.reclaim(self._worker, looked_s=server.time_s)
            for lease in reclaimed.condemned:
                await self._ending.condemn(lease)
        return True

    async def _reconcile(self) -> bool:
        await self._schedule.reconcile()
        return True

    async def _guarded(self, step: Awaitable[bool]) -> bool:
        """What `step` says; False when it failed. A loop never ends by an error."""
        try:
            return await step
        except GramserveError as error:
            if error.reason is Reason.QUEUE_UNAVAILABLE:
                self._watch.lost()
                await self._answered(False)
            else:
                self._log.warning("optimizer loop met an error; it goes on", reason=error.reason.value)
        except Exception as error:
            self._log.error("optimizer loop failed; it goes on", error=log.describe(error))
        return False

    async def _answered(self, contact: bool) -> None:
        self._metrics.set("queue_contact", int(contact))
        if contact != self._contact:
            self._contact = contact
            if contact:
                self._log.info("the queue answers again")
            else:
                self._log.warning("the queue cannot be reached; trying on")
            await self._on_contact(contact and not self._stopping.is_set())

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
