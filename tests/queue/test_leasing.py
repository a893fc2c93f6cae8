"""Which slide a worker gets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import aclosing
from pathlib import Path

import pytest

from gramserve.errors import Unavailable
from gramserve.queue import EmbeddedRedis, Lease, Queue, RenewStatus, connect
from tests.queue.lane import DIGEST, DUE_S, VERSION, Lane
from tests.queue.lossy import LossyNetwork, lossy_network


def names(leases: list[Lease]) -> list[tuple[str, int]]:
    return [(lease.batch, lease.index) for lease in leases]


async def test_stat_comes_first_then_due_time_then_order_of_submission(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/late", 2, due_s=DUE_S + 100)
    await lane.fill("lab/early", 2, due_s=DUE_S - 100)
    await lane.fill("lab/stat-late", 1, due_s=DUE_S + 900, priority_stat=True)
    await lane.fill("lab/stat", 1, due_s=DUE_S + 800, priority_stat=True)
    assert names(await queue.lease("w1", 10, idle=True)) == [
        ("lab/stat", 0),
        ("lab/stat-late", 0),
        ("lab/early", 0),
        ("lab/early", 1),
        ("lab/late", 0),
        ("lab/late", 1),
    ]


async def test_a_busy_worker_may_ask_for_stat_slides_alone(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/routine", 3)
    assert await queue.lease("w1", 4, idle=False, stat_only=True) == []
    await lane.fill("lab/stat", 2, priority_stat=True)
    leases = await queue.lease("w1", 4, idle=False, stat_only=True)
    assert names(leases) == [("lab/stat", 0), ("lab/stat", 1)]
    assert all(lease.stat for lease in leases)
    assert not (await lane.lease_one("w1")).stat
    await lane.check(["lab/routine", "lab/stat"])


async def test_a_busy_worker_that_meets_a_crashed_stat_slide_claims_it_and_becomes_idle(
    lane: Lane, queue: Queue
) -> None:
    await lane.fill("lab/stat", 1, priority_stat=True)
    await lane.fill("lab/routine", 1)
    await queue.fail(await lane.lease_one("w2"), "w2", crash=True, delay_s=0.0)
    assert await queue.lease("w1", 1, idle=False, stat_only=True) == []
    assert await queue.lease("w1", 1, idle=False) == []
    assert names(await queue.lease("w1", 1, idle=True)) == [("lab/stat", 0)]


async def test_slides_of_a_batch_go_in_order_beyond_six_digits_of_text_order(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 12)
    assert [lease.index for lease in await queue.lease("w1", 12, idle=True)] == list(range(12))


async def test_a_lease_says_all_that_a_worker_needs(lane: Lane) -> None:
    await lane.fill("lab/b", 1)
    lease = await lane.lease_one("w1")
    assert (lease.batch, lease.index, lease.round, lease.entry) == ("lab/b", 0, 0, "lab/b/000000")
    assert (lease.attempts, lease.crashes, lease.alone) == (0, 0, False)
    assert (lease.version, lease.digest, lease.expires_s) == (VERSION, DIGEST, 30.0)
    assert 0 <= lease.queued_s < 10


async def test_an_empty_queue_gives_nothing(queue: Queue) -> None:
    assert await queue.lease("w1", 4, idle=True) == []
    assert await queue.renew("w1", []) == []
    assert await queue.release([], "w1") == 0


async def test_I8_a_slide_moves_through_exactly_one_place_at_a_time(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 4)
    await lane.check(["lab/b"])
    first, second, third = await queue.lease("w1", 3, idle=True)
    await lane.check(["lab/b"])
    await queue.fail(first, "w1", crash=False, delay_s=60)
    await queue.release([second], "w1")
    await queue.complete(third, "w1", "FAILED")
    await lane.check(["lab/b"])
    places = await lane.places()
    assert places == {"ready": ["lab/b/000001", "lab/b/000003"], "leased": [], "delayed": ["lab/b/000000"]}
    depth = await queue.depth()
    assert (depth.ready_stat, depth.ready_routine, depth.leased, depth.delayed) == (0, 2, 0, 1)


async def test_a_delayed_slide_comes_back_in_its_own_place(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    lease = await lane.lease_one()
    assert await queue.fail(lease, "w1", crash=False, delay_s=60)
    assert [found.index for found in await queue.lease("w1", 5, idle=False)] == [1]
    await lane.let_delays_pass()
    (again,) = await queue.lease("w1", 5, idle=False)
    assert (again.index, again.attempts, again.crashes, again.alone) == (0, 1, 0, False)
    assert again.token != lease.token


async def test_I14_a_release_charges_nothing_and_is_leased_again_at_once(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    leases = await queue.lease("w1", 3, idle=True)
    assert await queue.release(leases, "w1") == 3
    again = await queue.lease("w2", 3, idle=True)
    assert [(lease.index, lease.attempts, lease.crashes) for lease in again] == [(0, 0, 0), (1, 0, 0), (2, 0, 0)]
    assert await queue.release(leases, "w1") == 0


async def crash(lane: Lane, batch: str) -> None:
    """Makes the first slide of `batch` one that runs alone."""
    lease = await lane.lease_one("crasher")
    assert (lease.batch, lease.index) == (batch, 0)
    assert await lane.queue.fail(lease, "crasher", crash=True, delay_s=0)


async def test_I7_a_crashed_slide_runs_alone(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 4)
    await crash(lane, "lab/b")
    (lease,) = await queue.lease("w1", 4, idle=True)
    assert (lease.index, lease.alone, lease.crashes) == (0, True, 1)
    assert [found.index for found in await queue.lease("w2", 4, idle=True)] == [1, 2, 3]


async def test_I7_a_busy_worker_stalls_for_a_lone_slide_and_only_that_worker(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 4)
    await crash(lane, "lab/b")
    assert await queue.lease("w1", 2, idle=False) == []
    assert await queue.lease("w1", 2, idle=False) == []
    assert [found.index for found in await queue.lease("w2", 2, idle=False)] == [1, 2], "w1 has claimed the lone slide"
    (lone,) = await queue.lease("w1", 2, idle=True)
    assert (lone.index, lone.alone) == (0, True)


async def test_I7_an_idle_worker_takes_a_lone_slide_in_spite_of_a_claim(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    await crash(lane, "lab/b")
    assert await queue.lease("w1", 2, idle=False) == []
    (lone,) = await queue.lease("w2", 2, idle=True)
    assert lone.alone
    assert [found.index for found in await queue.lease("w1", 2, idle=False)] == [1]


async def test_I7_the_claim_of_a_dead_worker_passes(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    await crash(lane, "lab/b")
    assert await queue.lease("w1", 1, idle=False) == []
    await lane.let_claims_pass("lab/b/000000")
    assert await queue.lease("w2", 1, idle=False) == []
    assert [found.index for found in await queue.lease("w3", 1, idle=False)] == [1]


async def test_an_idle_worker_gets_better_slides_before_a_lone_one_but_none_beside_it(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    await crash(lane, "lab/b")
    await lane.fill("lab/stat", 1, priority_stat=True)
    assert names(await queue.lease("w1", 3, idle=True)) == [("lab/stat", 0)]
    assert names(await queue.lease("w1", 3, idle=True)) == [("lab/b", 0)]


async def test_a_draining_worker_gets_nothing_and_hears_it_with_its_renewals(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    lease = await lane.lease_one("w1")
    assert not await queue.draining("w1")
    await queue.drain("w1")
    assert await queue.draining("w1")
    assert await queue.lease("w1", 1, idle=True) == []
    assert await queue.renew("w1", [lease]) == [RenewStatus.DRAIN]
    assert (await queue.complete(lease, "w1", "SUCCEEDED")).accepted
    assert len(await queue.lease("w2", 2, idle=True)) == 2


async def test_a_lease_whose_answer_was_lost_is_given_back_uncharged_by_the_next(
    lane: Lane, server: EmbeddedRedis, tmp_path: Path
) -> None:
    assert await lane.queue.lease("w1", 1, idle=True) == []  # Redis knows the script now
    await lane.fill("lab/b", 3)
    async with lossy_network(server.url, tmp_path) as (network, url), aclosing(connect(url)) as client:
        far = Lane(client, name=lane.name)
        await lose(network, far.queue.lease("w1", 2, idle=True))
        await lose(network, far.queue.lease("w1", 2, idle=True))
        leases = await far.queue.lease("w1", 2, idle=True)
        assert [(lease.index, lease.crashes) for lease in leases] == [(0, 0), (1, 0)]
        assert (await lane.queue.tallies())["recovered"] == 4
        await lane.check(["lab/b"])
        await lose(network, far.queue.lease("w1", 2, idle=False))
        assert (await lane.queue.depth()).ready_routine == 0
        assert await far.queue.release(leases, "w1") == 3, "what the worker never heard of, too"
        assert (await lane.queue.depth()).ready_routine == 3
        await far.queue.aclose()


async def lose(network: LossyNetwork, call: Awaitable[object]) -> None:
    """Makes a call that Redis carries out and whose answer is lost."""
    network.losing = True
    with pytest.raises(Unavailable):
        await call
    network.losing = False


async def test_a_lease_call_that_arrives_after_a_later_one_takes_nothing(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    assert await queue._scripts.run("lease", "w1", 1, 1, 30_000, "me", 2, 1) != []
    assert await queue._scripts.run("lease", "w1", 1, 1, 30_000, "me", 1, "") == []
    assert await queue._scripts.run("lease", "w1", 1, 1, 30_000, "me restarted", 1, "") != []


async def test_I2_twenty_workers_complete_five_hundred_slides_once_each(lane: Lane, queue: Queue) -> None:
    for batch in range(5):
        await lane.fill(f"lab/b{batch}", 100, priority_stat=batch == 3)
    ended: list[tuple[str, int]] = []

    async def work(name: str) -> None:
        number = 0
        while leases := await queue.lease(name, 3, idle=True):
            for lease in leases:
                number += 1
                if number % 7 == 0 and not lease.attempts:
                    assert await queue.fail(lease, name, crash=False, delay_s=0)
                elif number % 11 == 0:
                    assert await queue.release([lease], name) == 1
                else:
                    assert (await queue.complete(lease, name, "SUCCEEDED")).accepted
                    ended.append((lease.batch, lease.index))

    await asyncio.gather(*(work(f"w{n}") for n in range(20)))
    assert sorted(ended) == [(f"lab/b{batch}", index) for batch in range(5) for index in range(100)]
    await lane.check([f"lab/b{batch}" for batch in range(5)])
    assert sorted(await queue.drained()) == [f"lab/b{batch}" for batch in range(5)]
    assert await queue.tallies() == {}


async def test_a_long_queue_makes_no_transition_longer(lane: Lane, queue: Queue) -> None:
    async def calls_of_one_slide() -> int:
        await lane.redis.config_resetstat()
        lease = await lane.lease_one()
        await queue.renew("w1", [lease])
        await queue.complete(lease, "w1", "SUCCEEDED")
        return sum(stats["calls"] for stats in (await lane.redis.info("commandstats")).values())

    await lane.fill("lab/small", 30)
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    short = await calls_of_one_slide()
    await lane.fill("lab/large", 100_000, due_s=DUE_S - 1)
    await queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")
    assert await calls_of_one_slide() == short
    await lane.redis.flushall()
