"""The network loses exactly one reply, is cut, or swallows everything: there is one batch, and one result a slide."""

from __future__ import annotations

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from gramserve.errors import GramserveError, Unavailable
from gramserve.queue import Queue, connect
from tests.faults import harness
from tests.faults.harness import Site, key_of
from tests.faults.matrix import Fault
from tests.faults.proxy import FaultProxy, Loss, fault_proxy, runs
from tests.services import kill_9, redis_server
from tests.waiting import until

whole = pytest.mark.whole

# Each transition, with whose call it is.
GATEWAY = ("open", "submit", "stop", "reclaim", "audit", "renumber", "finish", "depth")
WORKER = ("lease", "renew", "complete", "fail", "release")
OPERATOR = ("drain",)


class Lines:
    """What lies between Redis and each who talks to it."""

    def __init__(self, gateway: FaultProxy, worker: FaultProxy, operator: FaultProxy) -> None:
        self.gateway, self.worker, self.operator = gateway, worker, operator

    def lose(self, name: str, nth: int) -> Loss:
        """The `nth` reply to this transition, from the one who makes it, will be lost."""
        line = self.gateway if name in GATEWAY else self.worker if name in WORKER else self.operator
        return line.lose(runs(name), nth=nth)


@asynccontextmanager
async def site_on_lines(folder: Path) -> AsyncIterator[tuple[Site, Lines]]:
    async with (
        redis_server(folder / "redis") as redis,
        fault_proxy(redis.url, folder / "g") as gateway,
        fault_proxy(redis.url, folder / "w") as worker,
        fault_proxy(redis.url, folder / "o") as operator,
        harness.site(folder, redis) as site,
    ):
        yield site, Lines(gateway, worker, operator)


EVERYTHING = (*GATEWAY, *WORKER, *OPERATOR)


@pytest.mark.parametrize(
    ("names", "nth"),
    [
        pytest.param(EVERYTHING, 1, id="each-once"),
        pytest.param((*GATEWAY, *WORKER), 2, id="the-second-of-each", marks=whole),
        *(pytest.param((name,), 1, id=name, marks=whole) for name in EVERYTHING),
    ],
)
async def test_I1_I2_the_reply_of_every_transition_is_lost(
    names: tuple[str, ...], nth: int, tmp_path: Path, fault: Fault
) -> None:
    fault("network, the reply of a transition is lost (each of them)", invariants="I1 I2 I8 I9 I14")
    async with site_on_lines(tmp_path) as (site, lines):
        losses = {name: lines.lose(name, nth) for name in names}
        await a_night_with_every_transition(site, lines)
        assert {name for name, loss in losses.items() if not loss.done} == set()
        fault.inject(len(losses))
        if "lease" in losses:
            assert (await site.queue.tallies())["recovered"], "what the lost answer gave away came back by itself"
        # Redis is killed in it, and events go on under later numbers.
        found = await fault.proved(site, gapless=False)
        assert found.ended == {"SUCCEEDED": 9, "CANCELLED": 4}


async def a_night_with_every_transition(site: Site, lines: Lines) -> None:
    """Every transition is made at least twice, the operator's once, and each is made by who makes it in production."""
    renumbered = lines.gateway.count(runs("renumber"))
    client = site.client()
    await site.gateway(redis_url=lines.gateway.url)
    first = await site.worker(redis_url=lines.worker.url, worker_id="first")
    # lease, renew, and fail: one slide is held, another is well at its third try.
    held = site.picture("hold", times=1)
    await site.create([site.picture("raise", times=2), held, *site.pictures("ok", "ok", "ok", "ok")])
    await site.held(held)
    # stop: two batches end before they began.
    for _ in range(2):
        await client.cancel_batch(await site.create(site.pictures("ok", "ok")))
    # drain, release: the worker gives back what waits behind the slide that is held.
    await until(lambda: leased_is(site, 2), what="a slide waits in the worker")
    await drain(lines.operator.url, "first")
    await until(lambda: leased_is(site, 1), what="what waited was given back")
    site.let_go(held)
    assert await first.ended() == 0
    # reclaim: twice a worker is killed while it holds a slide.
    unlucky = site.picture("hold", times=2)
    await site.create([unlucky, *site.pictures("ok", "ok")])
    for times in (1, 2):
        killed = await site.worker(redis_url=lines.worker.url)
        await site.held(unlucky, times=times)
        await killed.kill()
        await until(lambda: leased_is(site, 0), what="the slide was taken back")
    # audit, renumber: twice Redis is killed while slides wait.
    for times in (1, 2):
        await kill_9(site.redis)
        await site.redis.start()
        await until(lambda times=times: renumbered.seen >= times, what="the gateway renumbers")
    await site.worker(redis_url=lines.worker.url)
    await site.ended()


async def leased_is(site: Site, count: int) -> bool:
    with suppress(GramserveError):  # Redis was killed: our own connection to it is gone, too
        return (await site.queue.depth()).leased == count
    return False


async def drain(url: str, worker: str) -> None:
    """What an operator does, until it is answered."""
    client = connect(url)
    queue = Queue(client, "slides")
    try:
        while True:
            with suppress(Unavailable):
                await queue.drain(worker)
                return
    finally:
        await queue.aclose()
        await client.aclose()


@whole
async def test_I5_I6_a_worker_cut_off_for_two_leases_is_replaced_and_writes_nothing_afterwards(
    tmp_path: Path, fault: Fault
) -> None:
    fault("network, a worker cut off from Redis for longer than its lease", invariants="I2 I5 I6 I11")
    async with site_on_lines(tmp_path) as (site, lines):
        await site.gateway()
        first = await site.worker(redis_url=lines.worker.url, worker_id="cut-off")
        image = site.picture("hold", times=1)
        name = await site.create([image, *site.pictures("ok", "ok")])
        await site.held(image)
        lines.worker.cut()
        fault.inject()
        second = await site.worker(worker_id="second")
        await site.held(image, times=2)
        fault.handed_over()
        await site.ended()
        lines.worker.heal()
        await first.logged("lease lost; its work is thrown away")
        site.let_go(image)
        # It works again.
        await second.term()
        await site.create(site.pictures("ok", "ok"))
        found = await fault.proved(site)
        assert found.ended == {"SUCCEEDED": 5}
        laboratory, batch = key_of(name)
        outcome = await site.batches.outcome(laboratory, batch, 0)
        assert outcome is not None
        assert outcome.worker_id == "second"


@pytest.mark.parametrize("way", ["black_hole", pytest.param("cut", marks=whole)])
async def test_I4_nobody_reaches_redis_for_two_leases_and_no_lease_is_lost(
    way: str, tmp_path: Path, fault: Fault
) -> None:
    fault("network, Redis out of everybody's reach for two leases, then healed", invariants="I1 I4 I11")
    async with site_on_lines(tmp_path) as (site, lines):
        await site.gateway(redis_url=lines.gateway.url)
        worker = await site.worker(redis_url=lines.worker.url)
        image = site.picture("hold")
        await site.create([image, *site.pictures("ok", "ok")])
        await site.held(image)
        for line in (lines.gateway, lines.worker):
            getattr(line, way)()
        fault.inject()
        # By the server's clock: the lease that is held has been over for longer than it lasts.
        await until(lambda: lease_has_been_over_for(site, site.lease_s), what="two leases are over")
        site.let_go(image)
        for line in (lines.gateway, lines.worker):
            line.heal()
        await worker.logged("the queue answers again")
        fault.handed_over()
        found = await fault.proved(site)
        assert (found.ended, found.crashes) == ({"SUCCEEDED": 3}, 0)
        assert len(site.runs(image)) == 1


async def lease_has_been_over_for(site: Site, seconds: float) -> bool:
    (_, first_ms), *_ = await site.redis_client.zrange("{gs:slides}:leased", 0, 0, withscores=True)
    return (await site.queue.server()).time_s > first_ms / 1000 + seconds


@whole
async def test_I1_a_slow_network_costs_time_only(tmp_path: Path, fault: Fault) -> None:
    fault("network, 30 ms in each direction between Redis and all services", invariants="I1 I2 I4")
    async with site_on_lines(tmp_path) as (site, lines):
        for line in (lines.gateway, lines.worker):
            line.delay_s = 0.03
        fault.inject()
        await site.gateway(redis_url=lines.gateway.url)
        await site.worker(redis_url=lines.worker.url)
        await site.create([site.picture() for _ in range(60)])
        found = await fault.proved(site)
        assert (found.ended, found.crashes) == ({"SUCCEEDED": 60}, 0)


@whole
async def test_I3_a_client_whose_connection_breaks_makes_one_batch_and_misses_no_event(
    tmp_path: Path, fault: Fault
) -> None:
    fault("network, client cut off while it creates and while it watches", invariants="I3")
    async with site_on_lines(tmp_path) as (site, _), fault_proxy(f"127.0.0.1:{site.port}", tmp_path / "c") as line:
        await site.gateway()
        client = site.client(port=int(line.url.rpartition(":")[2]))
        site.points.at("gateway.committed", "wait")
        images = site.pictures("ok", "ok", "ok", "ok")
        creating = asyncio.create_task(site.create(images, client=client))
        await site.points.reached("gateway.committed")
        line.cut()
        fault.inject()
        site.points.off("gateway.committed")
        line.heal()
        name = await creating
        sequences = []
        async for event in client.watch_batch(name):
            sequences.append(event.sequence)
            if len(sequences) in {1, 4}:
                line.cut()
                fault.inject()
                line.heal()
                if len(sequences) == 1:
                    await site.worker()
        # A create that broke off after its commit is queued by its repeat, and its events have later numbers.
        assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
        assert len(sequences) == 3 + 2 * len(images)  # queued, running, ended; and of each slide: running, succeeded
        found = await fault.proved(site, gapless=False)
        assert (found.batches, found.ended) == (1, {"SUCCEEDED": 4})


@pytest.mark.parametrize(
    "point",
    [
        "gateway.committed",
        *(pytest.param(f"gateway.{name}", marks=whole) for name in ("requested", "manifest", "opened", "queued")),
    ],
)
async def test_I3_a_hundred_creates_at_once_with_one_request_id_make_one_batch_though_the_gateway_is_killed(
    point: str, site: Site, fault: Fault
) -> None:
    fault("gateway, kill -9 under 100 creates with one request_id", invariants="I1 I3")
    gateway = await site.gateway()
    images, request_id = site.pictures("ok", "ok", "ok"), str(uuid.uuid4())
    clients = [site.client() for _ in range(10)]
    site.points.at(point, "kill")
    creating = [
        asyncio.create_task(site.create(images, request_id=request_id, client=client))
        for client in clients
        for _ in range(10)
    ]
    assert await gateway.ended() == -signal.SIGKILL
    fault.inject()
    await site.gateway()
    assert len(set(await asyncio.gather(*creating))) == 1
    fault.handed_over()
    await site.worker()
    found = await fault.proved(site, gapless=False)
    assert (found.batches, found.ended) == (1, {"SUCCEEDED": 3})
