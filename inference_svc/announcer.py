"""Tells the roster of workers how this one stands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from gramserve.errors import GramserveError
from gramserve.queue import Card, Roster

PERIOD_S = 3.0


class Announcer:
    """Says `card()` every few seconds. Only people read it: what Redis does not take is said again at the next turn."""

    def __init__(self, roster: Roster, worker: str, card: Callable[[], Card]) -> None:
        self._roster = roster
        self._worker = worker
        self._card = card

    async def run(self) -> None:
        """Announce for ever."""
        while True:
            with suppress(GramserveError):
                await self._roster.announce(self._worker, self._card())
            await asyncio.sleep(PERIOD_S)

    async def leave(self) -> None:
        """Say that this worker has stopped."""
        with suppress(GramserveError):
            await self._roster.leave(self._worker)
