"""Noticing that the last slide of a batch has ended, and ending the batch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.finalize import Finalizer
from gateway.names import BatchName
from gramserve import log
from gramserve.errors import GramserveError
from gramserve.queue import Queue

_TOGETHER = 4


class Finisher:
    """Finalizes drained batches, few at a time; `look_after` gets those that turn out to be incomplete."""

    def __init__(self, queue: Queue, finalizer: Finalizer, *, look_after: Callable[[BatchName], None]) -> None:
        self._queue = queue
        self._finalizer = finalizer
        self._look_after = look_after
        self._running: dict[BatchName, asyncio.Task[None]] = {}
        self._late: set[BatchName] = set()
        self._log = log.get()

    async def step(self) -> None:
        """Begin with the batches that have drained; a large one does not keep a small one waiting.

        Those that could not be finished yet come last, so that they keep none waiting either.
        """
        names = [BatchName.from_key(key) for key in await self._queue.drained(_TOGETHER * 2 + len(self._late))]
        self._late.intersection_update(names)
        for name in sorted(names, key=self._late.__contains__):
            if name not in self._running and len(self._running) < _TOGETHER:
                self._running[name] = asyncio.create_task(self._finish(name))

    async def stop(self) -> None:
        """Break off; the next gateway does it again."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _finish(self, name: BatchName) -> None:
        try:
            if await self._finalizer.finalize(name):
                self._late.discard(name)
            else:
                self._look_after(name)
                self._note(name, "some of its slides have not ended")
        except Exception as error:
            self._note(name, error.reason.value if isinstance(error, GramserveError) else log.describe(error))
        finally:
            del self._running[name]

    def _note(self, name: BatchName, why: str) -> None:
        """Once for each batch: the next try follows at once."""
        if name not in self._late:
            self._log.warning("batch could not be finished yet", error=why)
        self._late.add(name)
