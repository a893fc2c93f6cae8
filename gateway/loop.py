"""Something that is done again and again in the background, and survives its own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gramserve import log
from gramserve.errors import GramserveError


class Loop:
    """Calls `step` every `interval_s` seconds. An error is logged once, until `step` works again or fails otherwise."""

    def __init__(self, name: str, step: Callable[[], Awaitable[None]], interval_s: float) -> None:
        self._name = name
        self._step = step
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None
        self._stopping = False
        self._failing = ""
        self._log = log.get(loop=name)

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """End now: every step can be broken off anywhere and is done again later, here or by another gateway."""
        task, self._task = self._task, None
        # A cancel alone can get lost inside redis-py (seen with 8.1 on Python 3.11), and the loop would go on for ever.
        self._stopping = True
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _run(self) -> None:
        while not self._stopping:
            try:
                await self._step()
            except Exception as error:
                self._note(error.reason.value if isinstance(error, GramserveError) else log.describe(error))
            else:
                self._note("")
            if not self._stopping:
                await asyncio.sleep(self._interval_s)

    def _note(self, failure: str) -> None:
        if failure == self._failing:
            return
        self._failing = failure
        if failure:
            self._log.warning("step failed", error=failure)
        else:
            self._log.info("works again")
