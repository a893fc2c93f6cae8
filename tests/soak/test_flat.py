"""What runs for long holds no more the longer it runs: counted, object by object, in real processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from gramserve.errors import NotFound, PreconditionFailed
from gramserve.v1.slide_batch_pb2 import Image, SlideSource
from gramserve.v1.slide_pb2 import Slide
from inference_svc.child import HOOK
from tests.faults import harness
from tests.services import redis_server
from tests.soak import census
from tests.soak.census import Census
from tests.waiting import until

WARM_UP = 200
"""Batches until what is remembered of the last ones is as much as it ever is."""
MORE = 240
LEAST = MORE // 2
"""What grows with every second batch is found."""
CALLERS = 8


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[harness.Site]:
    """A site with a Redis of its own: what others left in it would be counted as ours."""
    async with redis_server(tmp_path / "redis") as redis, harness.site(tmp_path, redis, lease_s=10.0) as made:
        yield made


class Day:
    """The calls of a day at a laboratory: batches that end well and badly, results, STAT slides, refusals."""

    def __init__(self, site: harness.Site) -> None:
        self._site = site
        self._client = site.client()
        self._pictures = [*site.pictures("ok", "ok", "ok"), b"no picture"]

    async def run(self, batches: int) -> None:
        """So many batches, some at a time; returns when all of them have ended."""
        numbers = iter(range(batches))

        async def caller() -> None:
            for number in numbers:
                await self._batch(number)

        await asyncio.gather(*(caller() for _ in range(CALLERS)))

    async def _batch(self, number: int) -> None:
        client = self._client
        slides = [
            SlideSource(slide_id=f"S-{n}", images=[Image(content=picture)])
            for n, picture in enumerate(self._pictures[number % 4 :])
        ]
        name = (await client.create_batch(slides, model="models/gram", reuse_results=number % 2 == 0)).name
        if number % 8 == 0:
            with suppress(PreconditionFailed):  # it has ended already
                await client.cancel_batch(name)
        async for _ in client.watch_batch(name):
            pass
        async for _ in client.results(name):
            pass
        if number % 8 == 1:
            slide = await client.classify_slide(slides[0], model="models/gram")
            assert slide.state in (Slide.STATE_SUCCEEDED, Slide.STATE_FAILED)
        if number % 8 == 2:
            with pytest.raises(NotFound):
                await client.get_batch(f"{name}x")


@pytest.mark.slow
async def test_gateway_worker_and_children_hold_no_more_after_more_batches(site: harness.Site, tmp_path: Path) -> None:
    folder = tmp_path / "census"
    folder.mkdir()
    options = {
        "environment": {census.FOLDER: str(folder), HOOK: "tests.soak.census:listen"},
        "modules": ("tests.soak.census",),
    }
    gateway, worker = await site.gateway(**options), await site.worker(**options)
    (child,) = worker.children()
    pids = {"gateway": gateway.pid, "worker": worker.pid, "child": child}

    async def everybody() -> dict[str, Census]:
        return {who: await census.take(folder, pid) for who, pid in pids.items()}

    day = Day(site)
    await day.run(WARM_UP)
    before = await everybody()
    await day.run(MORE)
    grown: dict[str, dict[str, int]] = {}

    async def as_before() -> bool:
        """Calls that have just ended are let go a moment later; what leaks stays."""
        now = await everybody()
        grown.clear()
        grown.update({who: found for who in pids if (found := now[who].grown(before[who], LEAST))})
        return not grown

    with suppress(AssertionError):
        await until(as_before)
    assert grown == {}


def test_what_grows_with_each_batch_is_found() -> None:
    known = [[n] for n in range(300)]
    few, many = census.count([known[:100], *known[:100]]), census.count([known, *known])
    before, after = (Census(objects, members, 0) for objects, members in (few, many))
    assert after.grown(before, LEAST) == {"list objects": 200, "members of lists": 400}
    assert before.grown(after, LEAST) == {}
    assert before.grown(Census(*few, blocks=-10 * LEAST - 1), LEAST) == {"blocks": 10 * LEAST + 1}


def test_members_of_a_dict_that_the_collector_does_not_know_are_counted() -> None:
    class Owner:
        def __init__(self) -> None:
            self.times = {str(n): float(n) for n in range(50)}

    _, members = census.count([[Owner().times]])
    assert members["dict"] == 50
