"""Stopping a round of a batch for a cause that the store remembers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from gateway.names import BatchName
from gramserve.queue import Queue
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, StopRecord


class Stopper:
    """Stops rounds. `clock` gives Unix seconds."""

    def __init__(self, batches: BatchStore, queue: Queue, clock: Callable[[], float]) -> None:
        self._batches = batches
        self._queue = queue
        self._clock = clock

    async def stop(self, record: BatchRecord, number: int, cause: Literal["CANCELLED", "TOO_MANY_FAILURES"]) -> None:
        """Writes the cause down, then ends what waits of round `number`; what runs finishes. May be repeated."""
        name = BatchName(record.laboratory, record.batch)
        await self._batches.stop(name.laboratory, name.batch, number, StopRecord(cause, self._clock()))
        await self._queue.cancel(name.key)
