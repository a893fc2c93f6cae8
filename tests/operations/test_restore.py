"""The machine is lost in the middle of a night; another one goes on from the copy of its store."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path

from gramserve.v1.slide_batch_pb2 import Image, SlideSource
from tests.faults import checker
from tests.faults.harness import STATE, Site
from tests.services import redis_server
from tests.sources import ROOT
from tests.waiting import HANGS_S, until


def new_id() -> str:
    return str(uuid.uuid4())


async def gramserve(*words: str) -> str:
    """What the command printed; a process of its own, as on the night."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from gramserve.cli import app; app()", *words),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), HANGS_S)
    assert process.returncode == 0, output.decode()
    return output.decode()


async def test_I1_I2_I3_a_night_goes_on_elsewhere_from_a_copy_made_while_slides_ran(site: Site, tmp_path: Path) -> None:
    await site.gateway()
    await site.worker(children=2)
    night_id, late_id = new_id(), new_id()
    early = await site.create(site.pictures(*["ok"] * 12), request_id=new_id())
    await site.ended(early)
    held = site.picture("hold")
    night = [held, *site.pictures(*["slow"] * 6), *site.pictures(*["ok"] * 20)]
    running = await site.create(night, request_id=night_id)
    await site.held(held)
    copy = tmp_path / "backup" / "store"
    assert "open" in await gramserve("backup", str(copy), "--store", site.store_url)
    late_images = site.pictures("ok", "ok")
    late = await site.create(late_images, request_id=late_id)
    for service in site.services:  # the machine is gone, with its Redis and its store
        await service.kill()

    async with redis_server(tmp_path / "elsewhere" / "redis") as redis:
        other = Site(tmp_path / "elsewhere", redis)
        try:
            await gramserve("backup", other.store_url, "--store", str(copy))
            await gramserve("audit", "verify", "--store", other.store_url)
            other.let_go(held)
            await other.gateway()
            await other.worker(children=2)
            other.accepted = {early: 12, running: len(night)}
            assert await other.ended(early, running)
            assert (await other.get(running)).state == STATE.STATE_SUCCEEDED
            found = await _found(other, {early})
            assert (found.ended, found.lost, found.duplicated) == ({"SUCCEEDED": 12 + len(night)}, 0, 0)

            # What was accepted after the copy is gone. A LIS that repeats its requests gets it done, and nothing twice.
            again = other.client()
            for request_id, images in ((night_id, night), (late_id, late_images)):
                sources = [SlideSource(slide_id=f"S-{n}", images=[Image(content=i)]) for n, i in enumerate(images)]
                batch = await again.create_batch(sources, model="models/gram", request_id=request_id)
                assert batch.name == (running if request_id == night_id else late), "as the LIS knows it"
                other.accepted[batch.name] = len(images)
            await other.ended()
            found = await _found(other, {early})
            assert (found.ended, found.lost, found.duplicated) == ({"SUCCEEDED": 14 + len(night)}, 0, 0)
        finally:
            await other.close()


async def _found(site: Site, without_events: set[str]) -> checker.Found:
    """What the checker finds, but that batches which ended before have no events: these were in the lost Redis."""
    found = await checker.inspect(site, gapless=False)
    known = {f"I2: {'/'.join(name.split('/')[1::2])} has no events" for name in without_events}
    found.broken = [one for one in found.broken if one not in known]
    found.held()
    return found


async def test_I1_redis_is_lost_and_an_empty_one_takes_its_place(site: Site) -> None:
    """What docs/operations.md says to do: nothing. The store rebuilds the queue."""
    await site.gateway()
    held = site.picture("hold", times=1)
    name = await site.create([held, *site.pictures(*["ok"] * 15)])
    await site.worker()
    await site.held(held)
    await site.redis_client.flushall()

    async def rebuilt() -> bool:
        return await site.queue.snapshot("/".join(name.split("/")[1::2])) is not None

    await until(rebuilt, what="the gateway rebuilt the queue")
    site.let_go(held)
    found = await checker.check(site, gapless=False)
    assert (found.ended, found.lost, found.duplicated) == ({"SUCCEEDED": 16}, 0, 0)
