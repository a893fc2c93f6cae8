"""What a running job has reached, kept in the store while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from gramserve import log
from gramserve.errors import Conflict, Exhausted, Unavailable
from optimizer_svc.hold import Hold, Interrupted, LetGo
from optimizer_svc.messages import Going
from optimizer_svc.progress import ProgressWriter
from optimizer_svc.stages import Stages

PASSING = (Unavailable, Exhausted, Conflict)
"""Errors of the store and the queue that another try may not meet."""
_EVERY_S = 1.0


class Keeper:
    """Progress, trials and finished stages of the optimization of `hold`; writes nothing when its lease is lost (I5).

    A store that does not answer for a while costs a stage's copy nothing but time: it is tried again.
    """

    def __init__(self, writer: ProgressWriter, stages: Stages, hold: Hold) -> None:
        self._writer = writer
        self._stages = stages
        self._hold = hold
        self._failing = False
        self._log = log.get()

    async def take(self, going: Going) -> None:
        """Takes what the job said; raises Interrupted and what the store raises."""
        self._hold.check_owned()
        await self._writer.write(going)

    async def bring(self) -> None:
        """Restores what another machine finished; raises Interrupted and what the store raises."""
        await self._stages.bring(self._hold.check)

    async def keep_on(self) -> None:
        """Keeps what there is, again and again, until the lease is lost."""
        while True:
            await asyncio.sleep(_EVERY_S)
            await self._bear(self._all())

    async def last(self, *, ended: bool, within_s: float) -> None:
        """Keeps what is not kept yet, the stages only of a job that may go on. Raises Interrupted."""
        over = ended or self._hold.reason is LetGo.CANCELLED
        try:
            async with asyncio.timeout(within_s):
                await self._bear(self._words() if over else self._all())
        except TimeoutError:
            self._log.warning("a stage was not kept in the store", cause="time")

    async def _words(self) -> None:
        self._hold.check_owned()
        await self._writer.flush()

    async def _all(self) -> None:
        await self._words()
        await self._stages.keep(self._hold.check_owned)

    async def _bear(self, step: Awaitable[None]) -> None:
        """Only losing the lease gets through; the first error of a row is said in the log."""
        try:
            await step
        except Interrupted:
            raise
        except Exception as error:
            if not self._failing:
                what = error.reason.value if isinstance(error, PASSING) else log.describe(error)
                self._log.warning("progress and stages cannot be kept; trying on", error=what)
            self._failing = True
        else:
            self._failing = False
