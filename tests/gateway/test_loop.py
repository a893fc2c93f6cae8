"""Background work."""

from __future__ import annotations

import asyncio

from gateway.loop import Loop
from gramserve.errors import Reason, Unavailable
from tests.waiting import HANGS_S, until


async def test_a_loop_survives_the_errors_of_its_step() -> None:
    steps: list[int] = []

    async def step() -> None:
        steps.append(1)
        if len(steps) == 1:
            raise Unavailable(Reason.QUEUE_UNAVAILABLE, "away")
        if len(steps) == 2:
            raise ValueError("a fault")

    loop = Loop("test", step, 0.001)
    loop.start()
    await until(lambda: len(steps) > 3)
    await loop.stop()


async def test_a_loop_ends_although_its_step_swallows_the_cancel() -> None:
    entered = asyncio.Event()

    async def step() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return  # as redis-py does now and then

    loop = Loop("test", step, 0.001)
    loop.start()
    await entered.wait()
    await asyncio.wait_for(loop.stop(), HANGS_S)


async def test_a_loop_that_never_started_can_be_stopped() -> None:
    async def step() -> None:
        raise AssertionError

    await Loop("test", step, 1.0).stop()
