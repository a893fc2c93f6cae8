"""Keeps a background loop running whatever happens inside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gramserve import log

_PAUSE_S = 1.0


async def keep_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run `loop` until it returns; an unexpected error is logged and the loop begins again after a second."""
    while True:
        try:
            return await loop()
        except Exception as error:
            log.get().error("background loop failed; it begins again", loop=name, error=log.describe(error))
        await asyncio.sleep(_PAUSE_S)


async def wait_for_either(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait until `event` is set or `timeout_s` seconds are over; True when it was set. The event is cleared."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True
