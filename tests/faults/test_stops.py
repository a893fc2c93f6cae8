"""Processes that stand still, start again and again, or are replaced under those who listen."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gramserve.client import GramserveClient
from gramserve.queue import EmbeddedRedis
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.faults import harness
from tests.faults.harness import Service, Site, key_of
from tests.faults.matrix import Fault
from tests.faults.test_kills import outcomes
from tests.waiting import HANGS_S, until

LOST = "lease lost; its work is thrown away"


async def test_I5_a_worker_stopped_for_two_leases_changes_nothing_when_it_wakes(site: Site, fault: Fault) -> None:
    fault("worker, SIGSTOP for more than two leases: in the middle of a slide", invariants="I4 I5")
    await site.gateway()
    zombie = await site.worker()
    image = site.picture("hold", times=1)
    name = await site.create([image])
    await site.held(image)
    heir = await site.worker()
    zombie.send(signal.SIGSTOP)
    fault.inject()
    began_s = (await site.queue.server()).time_s
    await site.held(image, times=2)
    fault.handed_over()
    await site.ended()
    before = await outcomes(site, name)
    await _leases_later(site, began_s, 2)
    # Its child goes on and ends the slide; the worker finds that answer when it wakes up.
    site.let_go(image)
    zombie.send(signal.SIGCONT)
    await zombie.logged(LOST)
    await heir.term()
    later = await site.create(site.pictures("ok"))
    await site.ended(later)
    assert (await outcomes(site, name)) == before
    assert (await outcomes(site, later))[0].worker_id != before[0].worker_id
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 2}


@pytest.mark.whole
@pytest.mark.parametrize("point", ["worker.recording", "worker.recorded", "worker.completed"])
async def test_I2_I5_a_worker_that_stops_between_store_and_queue_records_nothing_twice(
    site: Site, fault: Fault, point: str
) -> None:
    where = {
        "worker.recording": "it is about to write a result",
        "worker.recorded": "a result is durable and not completed",
        "worker.completed": "a slide is completed and it does not know",
    }
    fault(f"worker, SIGSTOP for more than two leases: {where[point]}", invariants="I2 I5")
    await site.gateway()
    workers = [await site.worker(), await site.worker()]
    site.points.at(point, "stop")
    images = site.pictures(*["ok"] * 6)
    name = await site.create(images)
    pid = await site.points.reached(point)
    fault.inject()
    await site.ended()
    fault.handed_over()
    before = await outcomes(site, name)
    await _leases_later(site, (await site.queue.server()).time_s, 2)
    (zombie,) = (worker for worker in workers if worker.pid == pid)
    zombie.send(signal.SIGCONT)
    # It has said all that it had to say when it works on.
    for worker in workers:
        if worker is not zombie:
            await worker.term()
    later = await site.create(site.pictures("ok"))
    await site.ended(later)
    assert (await outcomes(site, name)) == before
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 7}


@pytest.mark.whole
async def test_I4_a_slide_of_five_lease_times_stays_with_its_worker(
    session_redis: EmbeddedRedis, tmp_path: Path, fault: Fault
) -> None:
    fault("a slide that takes five leases", invariants="I4")
    async with harness.site(tmp_path, session_redis, lease_s=0.6) as site:
        await site.redis_client.flushall()
        await site.gateway()
        await site.worker()
        await site.worker()
        image = site.picture("hold")
        name = await site.create([image])
        await site.held(image)
        fault.inject()
        await _leases_later(site, (await site.queue.server()).time_s, 5)
        site.let_go(image)
        found = await fault.proved(site)
        assert found.ended == {"SUCCEEDED": 1}
        assert (await outcomes(site, name))[0].attempts == 1
        assert len(site.runs(image)) == 1
        assert found.crashes == 0


async def _leases_later(site: Site, since_s: float, leases: int) -> None:
    async def passed() -> bool:
        return (await site.queue.server()).time_s > since_s + leases * site.lease_s

    await until(passed)


RESTARTS = int(os.environ.get("FAULT_RESTARTS", "200"))


@pytest.mark.whole
@pytest.mark.timeout(2400)
async def test_I1_I6_I14_two_hundred_restarts_of_workers_lose_nothing(
    site: Site, fault: Fault, chance: random.Random
) -> None:
    fault("worker, restarts during batches, each second one by kill -9", invariants="I1 I2 I6 I14")
    await site.gateway()
    workers: list[Service] = [await site.worker(), await site.worker()]
    names: list[str] = []
    asked = asyncio.create_task(_keep_busy(site, names))
    for number in range(RESTARTS):
        victim = workers.pop(chance.randrange(2))
        # Somewhere in the life of a slide: after so many passings of a point that chance chose.
        point = chance.choice(["worker.leased", "worker.recording", "worker.recorded", "worker.completed"])
        site.points.at(point, "note", nth=0)
        await site.points.reached(point, times=site.points.passed(point) + 1)
        site.points.off(point)
        if number % 2:
            await victim.kill()
        else:
            assert await victim.term() == 0
        fault.inject()
        site.services.remove(victim)
        workers.append(await site.worker())
        fault.handed_over()
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    found = await fault.proved(site, timeout_s=180)
    # kill -9 charges what ran and what waited; one that met it three times is given up, with that reason.
    for name in names:
        for outcome in (await outcomes(site, name)).values():
            assert outcome.error is None or outcome.error.reason == "WORKER_CRASHED"
    assert found.ended["SUCCEEDED"] + found.ended["FAILED"] == found.accepted


async def _keep_busy(site: Site, names: list[str]) -> None:
    """A new batch of quick and slow slides whenever the last one has ended."""
    while True:
        names.append(await site.create(site.pictures(*["ok", "ok", "slow", "ok"] * 6)))
        await site.ended(names[-1], timeout_s=600)


@pytest.mark.whole
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
async def test_a_watch_goes_on_without_gap_or_repeat_when_its_gateway_is_replaced(
    site: Site, fault: Fault, number: signal.Signals
) -> None:
    fault(f"gateway, {'kill -9' if number is signal.SIGKILL else 'SIGTERM'}: while a batch is watched", invariants="I1")
    gateway = await site.gateway()
    await site.worker()
    held = site.picture("hold")
    name = await site.create([*site.pictures("ok", "ok", "ok"), held, *site.pictures("ok", "ok", "ok")])
    events: list[Any] = []
    watching = asyncio.create_task(_watch(site.client(), name, events.append))
    await site.held(held)
    await until(lambda: len(events) >= 4, what="events came")
    gateway.send(number)
    await gateway.ended()
    fault.inject()
    seen = len(events)
    site.let_go(held)
    await site.gateway()
    await until(lambda: len(events) > seen, what="events come again")
    fault.handed_over()
    await asyncio.wait_for(watching, HANGS_S)
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 7}


async def _watch(client: GramserveClient, name: str, seen: Callable[[Any], None]) -> None:
    async for event in client.watch_batch(name):
        seen(event)


@pytest.mark.whole
async def test_a_watcher_that_does_not_read_holds_up_nobody_and_misses_nothing(site: Site, fault: Fault) -> None:
    fault("client: a watcher that reads nothing until the batch has ended", invariants="I1")
    gateway = await site.gateway()
    await site.worker()
    client = site.client()
    images = site.pictures(*["ok"] * 400)
    name = await site.create(images)
    slow = client._batches.WatchSlideBatch(s.WatchSlideBatchRequest(name=name))
    first = await slow.read()
    fault.inject()
    before = gateway.rss_bytes()
    await site.ended(name)
    grown = gateway.rss_bytes() - before
    sequences = [first.sequence]
    while (event := await slow.read()) is not grpc.aio.EOF:
        sequences.append(event.sequence)
    assert sequences == list(range(1, 2 * 400 + 4))  # queued, running, two for each slide, the end
    assert grown < 64 << 20
    found = await fault.proved(site)
    assert found.ended == {"SUCCEEDED": 400}
    assert key_of(name)
