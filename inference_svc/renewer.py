"""Renews the leases that this worker holds, and acts on the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gramserve import log
from gramserve.errors import GramserveError
from gramserve.metrics import Metrics
from gramserve.queue import Queue, RenewStatus
from inference_svc.children import Children
from inference_svc.contact import Contact
from inference_svc.slide import Held, Slide


class Renewer:
    """Renews every `period_s` seconds, through a queue client of its own that no slow call can hold up.

    `drain` is called when this worker was asked to drain. A lease that ended by our clock alone is not given up: only
    the queue knows whether somebody else has it, and until it says so nothing is written (I5).
    """

    def __init__(
        self,
        *,
        worker: str,
        queue: Queue,
        held: Held,
        children: Children,
        contact: Contact,
        metrics: Metrics,
        period_s: float,
        drain: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._held = held
        self._children = children
        self._contact = contact
        self._metrics = metrics
        self._period_s = period_s
        self._drain = drain
        self._clock = clock
        self._log = log.get()

    async def run(self) -> None:
        """Renew for ever."""
        pause_s = self._period_s
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._renew()
            except GramserveError:
                pause_s = min(self._contact.failed(), self._period_s)
            else:
                pause_s = self._period_s

    async def _renew(self) -> None:
        slides = [slide for slide in self._held if not slide.gone()]
        if not slides:
            if await self._queue.draining(self._worker):
                self._drain()
            self._contact.answered()
            return
        asked_s = self._clock()
        statuses = await self._queue.renew(self._worker, [slide.lease for slide in slides])
        self._contact.answered()
        for slide, status in zip(slides, statuses, strict=True):
            if status is RenewStatus.LOST:
                self._lose(slide)
                continue
            slide.deadline_s = asked_s + slide.lease.expires_s
            if status is RenewStatus.CANCEL and slide.ticket is not None:
                # What runs may finish; what waits is given back and becomes CANCELLED there.
                self._children.withdraw(slide.ticket)
            if status is RenewStatus.DRAIN:
                self._drain()

    def _lose(self, slide: Slide) -> None:
        # Slides that ended while the question was under way are lost to nobody.
        if slide not in self._held:
            return
        slide.lose()
        self._metrics.count("fenced", transition="renew")
        self._log.warning("lease lost; its work is thrown away", batch=slide.lease.batch)
        if slide.ticket is not None:
            self._children.withdraw(slide.ticket)
