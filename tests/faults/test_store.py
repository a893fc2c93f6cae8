"""The store is full, read-only, broken or slow: nothing that was accepted is lost, nothing that is refused is kept."""

from __future__ import annotations

import asyncio
import errno
import random
import uuid
from pathlib import Path

import pytest

from gramserve.errors import GramserveError, Reason
from gramserve.queue import EmbeddedRedis
from tests.faults import harness
from tests.faults.disks import Disk, SmallDisk, Step, small_disk
from tests.faults.harness import STATE, Site, key_of
from tests.faults.matrix import Fault
from tests.waiting import until

whole = pytest.mark.whole
AWAY = {Reason.STORE_FULL, Reason.STORE_UNAVAILABLE}
NOT_USABLE = "the store is not usable; no slides are leased until it is"


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "disk")


async def test_I1_I10_a_disk_is_full_then_read_only_under_a_running_batch(
    session_redis: EmbeddedRedis, tmp_path: Path, fault: Fault
) -> None:
    fault("store, a real disk full, then read-only", invariants="I1 I2 I3 I10")
    with small_disk(tmp_path / "store", kilobytes=8192) as disk:
        if disk is None:
            pytest.skip("mounting a small disk takes root")
        async with harness.site(tmp_path, session_redis) as site:
            await site.redis_client.flushall()
            await site.gateway()
            await site.worker()
            for way in ("full", "read-only"):
                image = site.picture("hold")
                name = await site.create([image, *site.pictures("ok", "ok")])
                await site.held(image)
                await spoil(disk, way)
                fault.inject()
                refused, request_id = site.pictures("ok"), str(uuid.uuid4())
                await is_refused(site, refused, request_id)
                site.let_go(image)
                await site.services[1].logged(NOT_USABLE)
                site.services[1].log.clear()
                await mend(disk, way)
                assert (await site.ended(name))[0].state == STATE.STATE_SUCCEEDED
                fault.handed_over()
                await site.create(refused, request_id=request_id)
            found = await fault.proved(site)
            assert found.ended == {"SUCCEEDED": 8}
            assert found.crashes == 0


async def spoil(disk: SmallDisk, way: str) -> None:
    if way == "full":
        disk.fill()
    else:
        await until(lambda: disk.remount("ro"))


async def mend(disk: SmallDisk, way: str) -> None:
    if way == "full":
        disk.empty()
    else:
        await until(lambda: disk.remount("rw"))


async def is_refused(site: Site, images: list[bytes], request_id: str) -> None:
    with pytest.raises(GramserveError) as refused:
        await site.create(images, request_id=request_id, client=site.client(total_s=0.5))
    assert refused.value.reason in AWAY
    assert refused.value.retry_after_s
    assert str(site.folder) not in refused.value.message


WRITING: tuple[Step, ...] = ("open", "write", "fsync", "link")


@whole
@pytest.mark.parametrize("step", WRITING)
async def test_I1_I2_the_disk_of_a_worker_is_full_when_it_writes_outcomes(
    step: Step, site: Site, disk: Disk, fault: Fault
) -> None:
    fault("store, worker's disk full at open, write, fsync, link", invariants="I1 I2")
    await site.gateway()
    worker = await site.worker(**disk.options)
    image = site.picture("hold")
    name = await site.create([image, *site.pictures("ok", "ok", "ok")])
    await site.held(image)
    disk.fail(step)
    site.let_go(image)
    await worker.logged(NOT_USABLE)
    assert disk.hits(step)
    fault.inject(disk.hits(step))
    laboratory, batch = key_of(name)
    assert [outcome async for outcome in site.batches.outcomes(laboratory, batch)] == []
    disk.heal()
    found = await fault.proved(site)
    assert (found.ended, found.crashes) == ({"SUCCEEDED": 4}, 0)
    fault.handed_over()
    outcomes = [outcome async for outcome in site.batches.outcomes(laboratory, batch)]
    assert {outcome.attempts for outcome in outcomes} == {1}, "the disk was no fault of the slides"


@whole
@pytest.mark.parametrize("step", [*WRITING, "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=["full", "broken", "read-only"])
async def test_I3_I10_a_create_that_meets_a_bad_disk_is_refused_and_its_repeat_makes_one_batch(
    code: int, step: Step, site: Site, disk: Disk, fault: Fault
) -> None:
    fault("store, gateway's disk full, broken or read-only in a create", invariants="I1 I3 I10")
    await site.gateway(**disk.options)
    await site.worker()
    images, request_id = site.pictures("ok", "ok"), str(uuid.uuid4())
    disk.fail(step, code=code)
    await is_refused(site, images, request_id)
    fault.inject(disk.hits(step))
    disk.heal()
    await site.create(images, request_id=request_id)
    found = await fault.proved(site, gapless=False)
    assert (found.batches, found.ended) == (1, {"SUCCEEDED": 2})


@whole
@pytest.mark.parametrize("step", [*WRITING, "replace"])
async def test_I1_the_end_of_a_batch_is_written_when_the_disk_has_room_again(
    step: Step, site: Site, disk: Disk, fault: Fault
) -> None:
    fault("store, gateway's disk full when a batch ends (rename among others)", invariants="I1 I2")
    gateway = await site.gateway(**disk.options)
    await site.worker()
    image = site.picture("hold")
    name = await site.create([image, *site.pictures("ok", "ok")])
    await site.held(image)
    disk.fail(step)
    site.let_go(image)
    await gateway.logged("batch could not be finished yet")
    fault.inject(disk.hits(step))
    laboratory, batch = key_of(name)
    assert await site.batches.final(laboratory, batch, 0) is None
    disk.heal()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 3}


@whole
@pytest.mark.parametrize("seconds", [0.4, 4.5])
async def test_I4_a_store_slower_than_a_lease_costs_time_and_no_lease(
    seconds: float, site: Site, disk: Disk, fault: Fault
) -> None:
    fault("store, every fsync and read takes 0.4 s, or two leases", invariants="I1 I2 I4")
    await site.gateway()
    await site.worker(**disk.options)
    disk.slow("fsync", "read", seconds=seconds)
    await site.create(site.pictures("ok", "ok", "ok"))
    await site.ended()
    fault.inject(disk.hits())
    disk.heal()
    found = await fault.proved(site)
    assert (found.ended, found.crashes) == ({"SUCCEEDED": 3}, 0)


@whole
async def test_I1_reads_that_fail_are_not_charged_to_slides(site: Site, disk: Disk, fault: Fault) -> None:
    fault("store, every read fails (EIO) in a worker and its children", invariants="I1 I2")
    await site.gateway()
    worker = await site.worker(**disk.options)
    await site.create(site.pictures("ok"))
    await site.ended()
    disk.fail("read", code=errno.EIO)
    name = await site.create(site.pictures("ok", "ok"))
    await worker.logged(NOT_USABLE)
    fault.inject(disk.hits())
    disk.heal()
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 3}
    laboratory, batch = key_of(name)
    assert {outcome.attempts async for outcome in site.batches.outcomes(laboratory, batch)} == {1}


@whole
async def test_I1_I2_disks_fail_at_random_under_load(
    site: Site, disk: Disk, fault: Fault, chance: random.Random
) -> None:
    fault("store, random faults of all disks under load", invariants="I1 I2 I10")
    await site.gateway(**disk.options)
    await site.worker(children=2, **disk.options)
    steps: tuple[Step, ...] = (*WRITING, "replace", "read")
    creating = [
        asyncio.create_task(site.create([site.picture() for _ in range(20)], client=site.client(total_s=120.0)))
        for _ in range(6)
    ]
    for _ in range(20):
        step, before = chance.choice(steps), disk.hits()
        disk.fail(step, code=chance.choice([errno.ENOSPC, errno.EIO]))
        await until(lambda before=before: disk.hits() > before)
        disk.heal()
    fault.inject(disk.hits())
    await asyncio.gather(*creating)
    found = await fault.proved(site, gapless=False, timeout_s=120.0)
    assert (found.batches, found.ended) == (6, {"SUCCEEDED": 120})
