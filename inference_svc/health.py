"""Says SERVING while slides can be consumed and their outcomes written, and not a moment longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PERIOD_S = 0.25


class Health:
    """`consuming` looks at the parts; `announce` tells the world, and is called at changes only."""

    def __init__(self, consuming: Callable[[], bool], announce: Callable[[bool], Awaitable[None]]) -> None:
        self._consuming = consuming
        self._announce = announce
        self.stopped = False
        self.serving = False
        self.served = asyncio.Event()

    async def watch(self) -> None:
        """Look for ever, four times a second."""
        while not self.stopped:
            await self.look()
            await asyncio.sleep(PERIOD_S)

    async def look(self) -> None:
        """Look once."""
        serving = not self.stopped and self._consuming()
        if serving != self.serving:
            self.serving = serving
            await self._announce(serving)
        if serving:
            self.served.set()

    async def stop(self) -> None:
        """NOT_SERVING from now on."""
        self.stopped = True
        await self.look()
