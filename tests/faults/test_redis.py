"""Redis is killed, stopped, damaged, flushed, full, replaced, or its clock jumps: it costs time and no slide."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gramserve.errors import GramserveError, Reason, Unavailable
from gramserve.queue import EmbeddedRedis, Queue, connect
from tests.faults import harness
from tests.faults.clock import MovedClock
from tests.faults.harness import STATE, Site
from tests.faults.holder import holder
from tests.faults.matrix import Fault
from tests.faults.proxy import fault_proxy
from tests.services import SERVER_KINDS, ServerKind, kill_9, redis_server
from tests.waiting import until

whole = pytest.mark.whole
BOTH = pytest.mark.parametrize("kind", [SERVER_KINDS[0], pytest.param(SERVER_KINDS[1], marks=whole)])


@asynccontextmanager
async def site_with_its_own(kind: ServerKind, folder: Path, *, launcher: Sequence[str] = ()) -> AsyncIterator[Site]:
    """A site whose Redis the test may harm."""
    async with (
        redis_server(folder / "redis", kind, launcher=launcher) as redis,
        harness.site(folder, redis) as made,
    ):
        yield made


@pytest.mark.parametrize(
    ("kind", "waiting", "running"),
    [
        ("bundled", 60, 10),
        pytest.param("bundled", 1000, 50, marks=whole),
        pytest.param("system", 1000, 50, marks=whole),
    ],
)
async def test_I1_I4_redis_is_killed_with_slides_queued_and_running(
    kind: ServerKind, waiting: int, running: int, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, kill -9 with slides queued and running", invariants="I1 I2 I4 I8 I11")
    async with site_with_its_own(kind, tmp_path) as site:
        await site.gateway()
        await site.create([site.picture()] * (waiting + running))
        async with holder(site, running) as held:
            await kill_9(site.redis)
            fault.inject()
            await site.redis.start()
            await held.renewed(2)
            assert not held.lost
            await site.worker()
            assert await held.complete() == running
        fault.handed_over()
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": waiting + running}
        assert found.crashes == 0


@whole
@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_I1_I11_redis_is_killed_again_and_again_while_slides_run(
    kind: ServerKind, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, kill -9 again and again under load", invariants="I1 I2 I8 I11")
    async with site_with_its_own(kind, tmp_path) as site:
        await site.gateway()
        await site.worker(children=2)
        name = await site.create([site.picture() for _ in range(300)])
        for done in (20, 60, 100, 150, 200, 250):

            async def so_many_are_done(done: int = done) -> bool:
                batch = await site.get(name)
                return batch.completion_stats.succeeded_count >= done or batch.state >= STATE.STATE_SUCCEEDED

            await until(so_many_are_done)
            assert site.redis.pid is not None
            os.kill(site.redis.pid, signal.SIGKILL)  # with what it had yet to write
            await until(lambda: not site.redis.alive)
            fault.inject()
            await site.redis.start()
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": 300}


@whole
@pytest.mark.parametrize("kind", SERVER_KINDS)
@pytest.mark.parametrize("seconds", [4.5, 60])
async def test_I3_I4_redis_stands_still_for_longer_than_all_leases(
    kind: ServerKind, seconds: float, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, SIGSTOP for two leases and for 60 s, then SIGCONT", invariants="I1 I3 I4 I11")
    async with site_with_its_own(kind, tmp_path) as site:
        gateway, worker = await site.gateway(), await site.worker()
        image = site.picture("hold")
        await site.create([image, *site.pictures("ok", "ok", "ok")])
        await site.held(image)
        assert site.redis.pid is not None
        async with holder(site, 1) as held:
            os.kill(site.redis.pid, signal.SIGSTOP)
            fault.inject()
            # Asked for while Redis stands still, and again and again until it is accepted: one batch.
            creating = asyncio.create_task(
                site.create(site.pictures("ok", "ok"), client=site.client(total_s=seconds + 60, call_s=3.0))
            )
            await asyncio.sleep(seconds)  # the fault itself: how long Redis stands still
            os.kill(site.redis.pid, signal.SIGCONT)
            await held.renewed(2)
            await creating
            site.let_go(image)
            assert not held.lost
            assert await held.complete() == 1
        fault.handed_over()
        found = await fault.proved(site)
        assert (found.batches, found.accepted, found.crashes) == (2, 6, 0)
        assert site.runs(image) == site.runs(image)[:1]
        assert gateway.alive
        assert worker.alive


@whole
@pytest.mark.parametrize("kind", SERVER_KINDS)
@pytest.mark.parametrize("kept", [-7, 0.5, 0.05])
async def test_I1_redis_comes_back_with_a_truncated_append_only_file(
    kind: ServerKind, kept: float, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, append-only file truncated (a few bytes, half, nearly all)", invariants="I1 I2 I8")
    async with site_with_its_own(kind, tmp_path) as site:
        await site.gateway()
        image = site.picture("hold")
        await site.create([image, *(site.picture() for _ in range(30))])
        await site.worker()
        await site.held(image)
        await kill_9(site.redis)
        file = append_only_file(site.redis, tmp_path / "redis")
        size = file.stat().st_size
        os.truncate(file, size + int(kept) if kept < 0 else int(size * kept))
        fault.inject()
        await site.redis.start()
        site.let_go(image)
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": 31}


@whole
@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_I1_a_damaged_append_only_file_is_refused_and_an_empty_redis_is_filled_from_the_store(
    kind: ServerKind, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, append-only file damaged in the middle and taken away", invariants="I1 I2 I8")
    async with site_with_its_own(kind, tmp_path) as site:
        await site.gateway()
        await site.worker()
        image = site.picture("hold")
        await site.create([image, *(site.picture() for _ in range(30))])
        await site.held(image)
        await kill_9(site.redis)
        file = append_only_file(site.redis, tmp_path / "redis")
        data = bytearray(file.read_bytes())
        # A word that is longer than it says.
        middle = data.find(b"\r\n*", len(data) // 2)
        data[middle:middle] = b"?" * 10
        file.write_bytes(data)
        fault.inject()
        with pytest.raises(Unavailable) as refused:
            await site.redis.start()
        assert refused.value.reason is Reason.QUEUE_UNAVAILABLE
        for part in (file, *file.parent.glob("*.manifest"), *file.parent.glob("*.base.rdb")):
            part.unlink(missing_ok=True)
        await site.redis.start()
        site.let_go(image)
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": 31}


@whole
@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_I1_redis_is_flushed_while_slides_run(kind: ServerKind, tmp_path: Path, fault: Fault) -> None:
    fault("Redis, FLUSHALL while slides wait and run", invariants="I1 I2 I5 I8")
    async with site_with_its_own(kind, tmp_path) as site:
        await site.gateway()
        await site.worker()
        for _ in range(5):
            image = site.picture("hold")
            await site.create([image, *(site.picture() for _ in range(10))])
            await site.held(image)
            await site.redis_client.flushall()
            fault.inject()
            site.let_go(image)
            await site.ended()
            fault.handed_over()
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": 55}


@BOTH
async def test_I10_redis_has_no_memory_left_and_what_runs_still_ends(
    kind: ServerKind, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, out of memory (maxmemory)", invariants="I1 I3 I10")
    async with site_with_its_own(kind, tmp_path) as site:
        await site.gateway()
        await site.worker()
        image = site.picture("hold")
        name = await site.create([image, *site.pictures("ok", "ok", "ok")])
        await site.held(image)
        await site.redis_client.config_set("maxmemory", "1")
        fault.inject()
        pictures, request_id = site.pictures("ok", "ok"), str(uuid.uuid4())
        with pytest.raises(GramserveError) as refused:
            await site.create(pictures, request_id=request_id, client=site.client(total_s=1.0))
        assert refused.value.reason in {Reason.QUEUE_FULL, Reason.QUEUE_UNAVAILABLE}
        assert refused.value.retry_after_s
        site.let_go(image)
        assert (await site.ended(name))[0].state == STATE.STATE_SUCCEEDED
        fault.handed_over()
        await site.redis_client.config_set("maxmemory", "0")
        await site.create(pictures, request_id=request_id)
        # What is queued late has its events under later numbers.
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": 6}


@whole
@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_I1_I3_a_replica_that_had_not_heard_everything_is_promoted(
    kind: ServerKind, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, a replica promoted that lacks the last seconds", invariants="I1 I2 I3 I8")
    port = harness.free_port()
    async with (
        redis_server(tmp_path / "redis", kind, port=port) as first,
        redis_server(tmp_path / "second", kind, port=harness.free_port()) as second,
        fault_proxy(first.url.removesuffix("/0"), tmp_path / "near") as way,
        fault_proxy(f"127.0.0.1:{port}", tmp_path / "between") as between,
        harness.site(tmp_path, first) as site,
    ):
        site.redis_url = way.url
        replica = connect(second.url)
        await replica.execute_command("REPLICAOF", "127.0.0.1", between.url.rpartition(":")[2])

        async def in_step() -> bool:
            return (await replica.info("replication"))["master_link_status"] == "up"

        await until(in_step)
        await site.gateway()
        await site.worker()
        known = site.picture("hold")
        await site.create([known, *site.pictures("ok", "ok", "ok", "ok")])
        await site.held(known)
        # From here on the replica hears nothing more: the loss window begins.
        between.black_hole()
        pictures, request_id = site.pictures("ok", "ok", "ok"), str(uuid.uuid4())
        unknown = await site.create(pictures, request_id=request_id)
        # All that services still write on the first one is lost when it is cut off.
        way.cut()
        fault.inject()
        await replica.execute_command("REPLICAOF", "NO", "ONE")
        way.lead_to(second.url.removesuffix("/0"))
        way.heal()
        assert await site.create(pictures, request_id=request_id) == unknown
        site.let_go(known)
        await site.ended()
        fault.handed_over()
        await first.stop()
        # The checker looks at the Redis that is there now.
        await look_at(site, second)
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": 8}
        await replica.aclose()


@BOTH
async def test_I4_the_clock_of_redis_jumps_ahead_and_no_living_lease_is_taken(
    kind: ServerKind, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, its clock jumps an hour ahead", invariants="I1 I4")
    clock = MovedClock(tmp_path / "clock")
    async with site_with_its_own(kind, tmp_path, launcher=clock.launcher) as site:
        await site.gateway()
        await site.worker()
        image = site.picture("hold")
        await site.create([image, *(site.picture() for _ in range(10))])
        await site.held(image)
        async with holder(site, 8) as held:
            for jump in range(1, 4):
                # At the worst moment: a sweep was found to be fair and is on its way.
                site.points.at("gateway.sweeping", "wait")
                await site.points.reached("gateway.sweeping", times=jump)
                clock.move(3600.0 * jump)
                fault.inject()
                site.points.go("gateway.sweeping")
                await held.renewed(12)  # two leases
                assert not held.lost
            site.let_go(image)
            assert await held.complete() == 8
        found = await fault.proved(site)
        assert found.crashes == 0


@whole
@pytest.mark.parametrize("kind", SERVER_KINDS)
async def test_I6_the_clock_of_redis_goes_back_and_the_slides_of_a_killed_worker_are_handed_over_all_the_same(
    kind: ServerKind, tmp_path: Path, fault: Fault
) -> None:
    fault("Redis, its clock goes back an hour and a worker is killed", invariants="I1 I6")
    clock = MovedClock(tmp_path / "clock")
    async with site_with_its_own(kind, tmp_path, launcher=clock.launcher) as site:
        await site.gateway()
        first = await site.worker(retry_delay_s=60.0)
        image, retried = site.picture("hold", times=1), site.picture("raise", times=1)
        await site.create([retried, image, *site.pictures("ok", "ok")])
        await site.held(image)
        await until(lambda: _is_delayed(site))
        # As if both had been written by a clock that was an hour ahead.
        await first.kill()
        clock.move(-3600.0)
        fault.inject()
        await site.worker()
        await until(lambda: len(site.runs(image)) == 2, 20, "the slide of the killed worker runs again")
        fault.handed_over()
        found = await fault.proved(site, timeout_s=120.0)
        assert found.ended == {"SUCCEEDED": 4}
        assert found.crashes >= 1


async def _is_delayed(site: Site) -> bool:
    return (await site.queue.depth()).delayed == 1


async def look_at(site: Site, redis: EmbeddedRedis) -> None:
    """From now on the test looks at this Redis; services are told by the network."""
    await site.queue.aclose()
    await site.redis_client.aclose()
    site.redis_client = connect(redis.url)
    site.queue = Queue(site.redis_client, "slides", lease_s=site.lease_s)


def append_only_file(redis: EmbeddedRedis, folder: Path) -> Path:
    """Where this server appends: one file before Redis 7, the last of several since."""
    found = [*folder.glob("appendonly.aof"), *folder.glob("appendonlydir/*.incr.aof")]
    assert len(found) == 1, redis.binary
    return found[0]
