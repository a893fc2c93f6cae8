"""Completes slides in the queue, all that are due in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gramserve.errors import GramserveError
from gramserve.queue import Queue, Settlement
from inference_svc.contact import Contact
from inference_svc.slide import Slide


class Completer:
    """One call is under way at a time; what becomes due meanwhile goes with the next one.

    A call whose answer was lost is repeated: completing twice changes nothing the second time (I2).
    """

    def __init__(self, queue: Queue, worker: str, *, contact: Contact, clock: Callable[[], float]) -> None:
        self._queue = queue
        self._worker = worker
        self._contact = contact
        self._clock = clock
        self._due: list[tuple[Slide, Settlement, asyncio.Future[bool | None]]] = []
        self._flushing: asyncio.Task[None] | None = None

    async def complete(self, slide: Slide, state: str, *, review: bool) -> bool | None:
        """End a slide whose outcome is durable. True: accepted. False: fenced. None: the lease was lost before."""
        done: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        self._due.append((slide, Settlement(slide.lease, state, review), done))
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="complete")
        return await done

    async def stop(self) -> None:
        """Give up what is still due; its slides were given back."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)

    async def _flush(self) -> None:
        try:
            while self._due:
                pause_s = await self._once()
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            self._flushing = None

    async def _once(self) -> float:
        """Complete what may be completed now; returns how long to wait before the next try."""
        due, self._due = self._due, []
        now_s = self._clock()
        ours = []
        for entry in due:
            if entry[0].gone():
                _settle(entry[2], None)
            elif entry[0].may_write(now_s):
                ours.append(entry)
            else:  # a renewal will tell whose it is
                self._due.append(entry)
        if not ours:
            return 0.1 if self._due else 0.0
        try:
            completions = await self._queue.complete_many(self._worker, [settlement for _, settlement, _ in ours])
        except GramserveError:
            self._due += ours
            return self._contact.failed()
        except BaseException:
            for _, _, done in ours:
                done.cancel()
            raise
        self._contact.answered()
        for (_, _, done), completion in zip(ours, completions, strict=True):
            _settle(done, completion.accepted)
        return 0.0


def _settle(done: asyncio.Future[bool | None], accepted: bool | None) -> None:
    if not done.done():
        done.set_result(accepted)
