"""The end of an optimization, in the order that loses nothing: the store first, then the queue."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from gramserve import log
from gramserve.errors import GramserveError, Reason
from gramserve.metrics import Metrics
from gramserve.queue import Lease, Queue
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.records import EndRecord, FailureRecord, State


class Ending:
    """Ends optimizations; every method may be repeated after an error."""

    def __init__(
        self,
        queue: Queue,
        worker: str,
        optimizations: Optimizations,
        metrics: Metrics,
        *,
        work_folder: Path,
        clock: Callable[[], float],
    ) -> None:
        self._queue = queue
        self._worker = worker
        self._optimizations = optimizations
        self._metrics = metrics
        self._work_folder = work_folder
        self._clock = clock
        self._log = log.get()

    async def settle(self, lease: Lease, end: EndRecord) -> None:
        """Ends the optimization of a lease as `end`, or as whoever was first ended it."""
        kept = await self._optimizations.finish(lease.batch, end)
        if kept.state is State.CANCELLED:
            # The queue may not know of the wish: a slide of a stopping batch that is given back becomes CANCELLED.
            await self._queue.cancel(lease.batch)
            accepted = await self._queue.release([lease], self._worker) == 1
        else:
            accepted = (await self._queue.complete(lease, self._worker, kept.state.value)).accepted
        if not accepted:
            self._metrics.count("fenced", transition="complete")
        await self.close(lease.batch, kept)

    async def condemn(self, lease: Lease) -> None:
        """Gives up an optimization whose process crashed too often; the sweeper holds `lease`."""
        await self.settle(lease, self.given_up(crashed=True))

    def given_up(self, *, crashed: bool) -> EndRecord:
        """The end of an optimization that failed for no reason of its own."""
        reason = Reason.WORKER_CRASHED if crashed else Reason.INTERNAL
        message = (
            "running the optimization crashed its process too often"
            if crashed
            else "a fault in gramserve; the log of the service says where"
        )
        return EndRecord(State.FAILED, self._clock(), failure=FailureRecord.of(GramserveError(reason, message)))

    async def cancel(self, optimization: str) -> None:
        """Stops one that somebody asked to cancel: at once while it waits; a running one hears of it and stops."""
        await self._queue.cancel(optimization)
        snapshot = await self._queue.snapshot(optimization)
        if snapshot is None or snapshot.live == 0:
            end = await self._optimizations.finish(optimization, EndRecord(State.CANCELLED, self._clock()))
            await self.close(optimization, end)

    async def close(self, optimization: str, end: EndRecord) -> None:
        """Has Redis forget an optimization that has ended, and removes its workspace and the copies of its stages."""
        if await self._queue.finish(optimization, end.state.value):
            self._metrics.count("optimizations_finished", state=end.state.value)
            reason = end.failure.reason if end.failure is not None else ""
            self._log.info("optimization ended", optimization=optimization, state=end.state.value, reason=reason)
        await asyncio.to_thread(shutil.rmtree, self._work_folder / optimization, ignore_errors=True)
        await self._optimizations.forget_stages(optimization)
