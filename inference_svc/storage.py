"""Whether the store is usable: told of trouble by whoever meets it, and found out by itself."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

from gramserve import log
from gramserve.errors import GramserveError
from inference_svc.background import wait_for_either

PERIOD_S = 15.0
RETRY_S = 1.0


class Storage:
    """`probe` writes and reads an object, raising GramserveError; `changed` is called when `usable` changes.

    `clock` is monotonic, seconds.
    """

    def __init__(
        self,
        probe: Callable[[], Awaitable[None]],
        changed: Callable[[], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.usable = True
        self._clock = clock
        self._back_s = -math.inf
        self._probe = probe
        self._changed = changed
        self._trouble = asyncio.Event()
        self._log = log.get()

    def trouble(self) -> None:
        """The store failed a read or a write: look now."""
        self._trouble.set()

    def was_away(self, since_s: float) -> bool:
        """Whether it was not usable at some time after `since_s` of the clock."""
        return not self.usable or self._back_s >= since_s

    async def check(self) -> bool:
        """Look now; whether the store is usable."""
        try:
            await self._probe()
        except GramserveError as error:
            self._set(usable=False, why=error.message)
        else:
            self._set(usable=True)
        return self.usable

    async def watch(self) -> None:
        """Look every 15 seconds, at once after trouble, and every second until the trouble is over; runs for ever."""
        while True:
            await wait_for_either(self._trouble, PERIOD_S if self.usable else RETRY_S)
            await self.check()
            if not self.usable:
                self._trouble.clear()

    def _set(self, *, usable: bool, why: str = "") -> None:
        if usable == self.usable:
            return
        self.usable = usable
        if usable:
            self._back_s = self._clock()
            self._log.info("the store is usable again")
        else:
            self._log.error("the store is not usable; no slides are leased until it is", why=why)
            self._trouble.set()
        self._changed()
