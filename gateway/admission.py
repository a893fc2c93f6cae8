"""Saying no before anything is written, when the queue has no room or does not answer."""

from __future__ import annotations

from gramserve.errors import Exhausted, Reason
from gramserve.queue import Queue

RETRY_AFTER_S = 30.0


class Admission:
    """Keeps the queue at `max_queued_slides` at most, those that run included."""

    def __init__(self, queue: Queue, *, max_queued_slides: int) -> None:
        self._queue = queue
        self._max_queued_slides = max_queued_slides

    async def check(self, slides: int) -> None:
        """Raises Exhausted (QUEUE_FULL) when `slides` more do not fit, Unavailable when Redis does not answer (I10)."""
        depth = await self._queue.depth()
        queued = depth.ready_stat + depth.ready_routine + depth.leased + depth.delayed
        if queued + slides > self._max_queued_slides:
            raise Exhausted(
                Reason.QUEUE_FULL,
                # How many wait is not told: they are those of all laboratories.
                "the queue has no room for so many slides; try again later",
                retry_after_s=RETRY_AFTER_S,
            )
