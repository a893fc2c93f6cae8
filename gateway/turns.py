"""One at a time for each thing, within this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary


class Turns:
    """A lock for each key that somebody holds or waits for. Between processes the store and the queue decide."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    @asynccontextmanager
    async def of(self, key: Hashable) -> AsyncIterator[None]:
        """Waits for the others with this key; they wait until the end of the block."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            yield
