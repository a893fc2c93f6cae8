"""Leases as many slides as can run next, and starts them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gramserve.errors import GramserveError, Unsafe
from gramserve.metrics import Metrics
from gramserve.queue import Queue
from inference_svc.background import wait_for_either
from inference_svc.children import Children
from inference_svc.contact import Contact
from inference_svc.process import URGENT_DEPTH
from inference_svc.slide import Held, Slide
from inference_svc.storage import Storage

HELD_PER_CHILD = 48
"""Running, prefetched, and those whose outcome is being written: no more are held while the store is slow."""


class Consumer:
    """`run_slide` lives one slide; `poll_s` bounds the wait for the queue's bell, which is silent for due retries.

    `dry` hears when the queue begins, and ends, to have nothing for this worker, `unfit` why it must not work on it.
    """

    def __init__(
        self,
        *,
        worker: str,
        queue: Queue,
        children: Children,
        held: Held,
        contact: Contact,
        storage: Storage,
        metrics: Metrics,
        run_slide: Callable[[Slide], Awaitable[None]],
        poll_s: float,
        clock: Callable[[], float],
        dry: Callable[[bool], None] = lambda dry: None,
        unfit: Callable[[Unsafe], None] = lambda error: None,
    ) -> None:
        self._worker = worker
        self._queue = queue
        self._children = children
        self._held = held
        self._contact = contact
        self._storage = storage
        self._metrics = metrics
        self._run_slide = run_slide
        self._poll_s = poll_s
        self._clock = clock
        self._changed = asyncio.Event()
        self._bell: asyncio.Task[float] | None = None
        self._rung = True
        self._slides: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._dry = dry
        self._unfit = unfit

    def wake(self) -> None:
        """Something changed that may allow to lease more; `run` is told only when it does, which is seldom."""
        if self._stopping or self._room(urgent=False) or (self._rung and self._room(urgent=True)):
            self._changed.set()

    def stop(self) -> None:
        """Lease nothing more; `run` returns soon."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Lease and start slides until `stop`."""
        try:
            while not self._stopping:
                self._changed.clear()
                if room := self._room(urgent=False):
                    if await self._lease(room, stat_only=False) < room:
                        self._dry(True)
                        await self._wait_for_work()
                        self._dry(False)
                elif self._rung and (room := self._room(urgent=True)):
                    await self._lease(room, stat_only=True)
                elif self._held.alone or not self._storage.usable or not self._children.ready:
                    await self._changed.wait()
                else:
                    await self._wait_for_work()
        finally:
            self._dry(False)
            if self._bell is not None:
                self._bell.cancel()

    async def finish(self, grace_s: float) -> None:
        """After `stop`: wait until no slide is held, for at most `grace_s` seconds."""
        if self._slides:
            await asyncio.wait(self._slides, timeout=grace_s)

    async def abandon(self) -> None:
        """Give up what `finish` left; the caller has marked it as gone."""
        for task in self._slides:
            task.cancel()
        await asyncio.gather(*self._slides, return_exceptions=True)

    def _room(self, *, urgent: bool) -> int:
        if self._stopping or not self._storage.usable or self._held.alone:
            return 0
        most = HELD_PER_CHILD + URGENT_DEPTH if urgent else HELD_PER_CHILD
        free = most * self._children.count - len(self._held)
        children_take = self._children.urgent_room if urgent else self._children.room
        return max(0, min(children_take - self._held.coming, free))

    async def _lease(self, room: int, *, stat_only: bool) -> int:
        """Lease at most `room` slides and start them; returns how many, or `room` to be asked again at once.

        STAT slides come first. While there is no room they are asked for alone, when the bell has rung since it was
        last seen that none waits.
        """
        asked_s = self._clock()
        try:
            leases = await self._queue.lease(self._worker, room, idle=not len(self._held), stat_only=stat_only)
        except Unsafe as error:
            self._unfit(error)
            self.stop()
            return 0
        except GramserveError:
            await wait_for_either(self._changed, self._contact.failed())
            return room
        self._contact.answered()
        self._rung = len(leases) == room and leases[-1].stat
        for lease in leases:
            # The lease counts from before the question: by the server's clock it cannot end earlier.
            slide = Slide(lease, asked_s + lease.expires_s)
            self._held.add(slide)
            task = asyncio.create_task(self._live(slide), name="slide")
            self._slides.add(task)
            task.add_done_callback(self._slides.discard)
        self._metrics.set("leases", len(self._held))
        return len(leases)

    async def _live(self, slide: Slide) -> None:
        await self._run_slide(slide)
        self._metrics.set("leases", len(self._held))

    async def _wait_for_work(self) -> None:
        """Until the bell rings, something changes here, or `poll_s` is over."""
        if self._bell is None:
            self._bell = asyncio.create_task(self._ring(), name="bell")
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({self._bell, changed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if self._bell.done():
            # A bell that waits goes on waiting while slides end: starting a new one each time would cost a connection.
            bell, self._bell, self._rung = self._bell, None, True
            if pause_s := bell.result():
                await wait_for_either(self._changed, pause_s)

    async def _ring(self) -> float:
        """Wait for the queue's bell; returns how long to leave the queue alone now."""
        try:
            await self._queue.wait_ready(self._poll_s)
        except GramserveError:
            return self._contact.failed()
        return 0.0
