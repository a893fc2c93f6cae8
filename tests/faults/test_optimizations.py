"""kill -9 and SIGTERM of an optimizer between its stages: one optimization, one version, one end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from gramserve.errors import Unavailable
from gramserve.rpc.channel import open_channel
from tests.faults.checker import Found
from tests.faults.harness import Service, Site, free_port
from tests.faults.matrix import Fault
from tests.optimizer_service.conftest import Caller, State, answer, id_of
from tests.waiting import until

whole = pytest.mark.whole
WHEN = {
    "optimizer.accepted": "an optimization is in the store and not queued",
    "optimizer.leased": "it is leased and has not begun",
    "optimizer.heard": "between two stages",
    "optimizer.packed": "the artifact is packed and not published",
    "optimizer.published": "the artifact is published, the outcome is not written",
    "optimizer.ended": "the outcome is written, Redis does not know",
}
PLACES = [(point, nth) for point in WHEN for nth in ((1, 2, 3) if point == "optimizer.heard" else (1,))]
HARMS = [(action, point, nth) for action in ("kill", "term") for point, nth in PLACES]


class Optimizers:
    """One optimizer after the other at one port, and a client of whichever is there."""

    def __init__(self, site: Site, caller: Caller, port: int) -> None:
        self._site = site
        self._port = port
        self.caller = caller

    async def start(self) -> Service:
        """An optimizer that serves."""
        return await self._site.optimizer(listen=f"127.0.0.1:{self._port}")

    async def create(self, request: Any) -> str:
        """The name of the optimization, repeated until there is an answer."""

        async def look() -> str:
            try:
                return str((await answer(self.caller.stub.CreateOptimization(request))).name)
            except Unavailable:
                return ""

        return await until(look, what="the optimization was accepted")

    async def ended(self, name: str) -> Any:
        """The optimization once it has ended and Redis has nothing of it."""
        done = await self.caller.ended(name)
        redis: Any = self._site.redis_client

        async def drained() -> bool:
            tag = "{gs:optimizations}"
            sets = [await redis.zcard(f"{tag}:{name}") for name in ("ready", "leased", "delayed")]
            return not any(sets) and not await redis.keys(f"{tag}:entry:*")

        await until(drained, what="Redis keeps nothing of it")
        return done


@asynccontextmanager
async def optimizers(site: Site) -> AsyncIterator[Optimizers]:
    """None started yet."""
    port = free_port()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield Optimizers(site, Caller(None, channel), port)  # type: ignore[arg-type]


def one(fault: Fault) -> None:
    """The row of one optimization that ended well."""
    found = Found(batches=1, accepted=1)
    found.ended["SUCCEEDED"] = 1
    fault.keep(found)


@whole
@pytest.mark.parametrize(("action", "point", "nth"), HARMS)
async def test_I1_I2_an_optimizer_that_dies_between_two_steps_publishes_once(
    site: Site, fault: Fault, action: str, point: str, nth: int
) -> None:
    how = "kill -9" if action == "kill" else "SIGTERM"
    fault(f"optimizer, {how}: {WHEN[point]}", invariants="I1 I2 I6")
    async with optimizers(site) as service:
        first = await service.start()
        request = await service.caller.request("finishes")
        request.optimization.settings.promote = True
        site.points.at(point, "kill" if action == "kill" else "term", nth=nth)
        creating = asyncio.create_task(service.create(request))
        assert await first.ended() == (-9 if action == "kill" else 0)
        fault.inject()
        await service.start()
        name = await creating
        assert await service.create(request) == name
        done = await service.ended(name)
        fault.handed_over()
    assert done.state == State.STATE_SUCCEEDED
    assert await site.objects.folders("models/gram/versions") == ["1", "2"]
    assert await site.objects.folders("optimizations") == [id_of(name)]
    alias = await site.registry.alias("gram", "production")
    assert alias is not None
    assert (alias.version, alias.history) == (2, (1,))
    one(fault)


@whole
async def test_I7_a_job_that_is_killed_runs_again(site: Site, fault: Fault) -> None:
    fault("optimizer's job, kill -9: in the middle of a stage", invariants="I2 I7")
    async with optimizers(site) as service:
        await service.start()
        name = await service.create(await service.caller.request("waits_once"))
        await service.caller.started(name)
        os.kill(int((site.folder / "work" / id_of(name) / "run" / "pid").read_text()), signal.SIGKILL)
        fault.inject()
        done = await service.ended(name)
        fault.handed_over()
    assert done.state == State.STATE_SUCCEEDED
    assert await site.objects.folders("models/gram/versions") == ["1", "2"]
    one(fault)
