"""What becomes of a slide whose worker or child dies."""

from __future__ import annotations

from gramserve.queue import Queue
from tests.queue.lane import Lane


async def test_I6_an_overdue_lease_is_handed_over_by_one_sweep(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    await queue.lease("dead", 2, idle=True)
    alive = await lane.lease_one("alive")
    assert (await queue.reclaim("sweeper")).requeued == 0
    for entry in ("lab/b/000000", "lab/b/000001"):
        await lane.redis.zadd(lane.key("leased"), {entry: 0})
    found = await queue.reclaim("sweeper")
    assert (found.requeued, found.condemned) == (2, ())
    await lane.check(["lab/b"])
    (again,) = await queue.lease("alive", 2, idle=True)
    assert (again.index, again.crashes, again.attempts, again.alone) == (0, 1, 0, True)
    assert (await queue.complete(alive, "alive", "SUCCEEDED")).accepted


async def test_I7_a_slide_is_condemned_after_three_crashes_and_its_neighbours_finish(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 3)
    for crashes in range(3):
        lease = await lane.lease_one(f"w{crashes}")
        assert (lease.index, lease.crashes) == (0, crashes)
        await lane.let_leases_run_out()
        found = await queue.reclaim("sweeper")
    assert found.requeued == 0
    (condemned,) = found.condemned
    assert (condemned.index, condemned.crashes, condemned.token != lease.token) == (0, 3, True)
    await lane.check(["lab/b"])
    for lease in await queue.lease("w1", 3, idle=True):
        assert (await queue.complete(lease, "w1", "SUCCEEDED")).accepted
    assert (await queue.complete(condemned, "sweeper", "FAILED")).accepted
    seen = await lane.snapshot("lab/b")
    assert (seen.succeeded, seen.failed, seen.live) == (2, 1, 0)
    tallies = await queue.tallies()
    assert (tallies["crashes"], tallies["condemned"]) == (3, 1)
    last = [event for event in await queue.events("lab/b", 0, 1000) if event.index == 0][-1]
    assert (last.state, last.attempts) == ("FAILED", 3)


async def test_I7_a_sweeper_that_dies_leaves_the_condemned_to_the_next(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    for _ in range(3):
        await lane.lease_one()
        await lane.let_leases_run_out()
        found = await queue.reclaim("first")
    await lane.let_leases_run_out()
    again = await queue.reclaim("second")
    assert [lease.crashes for lease in again.condemned] == [3], "the death of a sweeper is no crash of the slide"
    assert not (await queue.complete(found.condemned[0], "first", "FAILED")).accepted
    assert await queue.release(again.condemned, "second") == 1
    assert await queue.lease("w1", 1, idle=True) == [], "a condemned slide never runs again"
    third = await queue.reclaim("third")
    assert (await queue.complete(third.condemned[0], "third", "FAILED")).accepted
    assert (await queue.tallies())["condemned"] == 1


async def test_I7_a_worker_that_does_not_give_up_leaves_its_slide_to_be_condemned(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    for _ in range(3):
        lease = await lane.lease_one("stubborn")
        assert await queue.fail(lease, "stubborn", crash=True, delay_s=0)
    assert await queue.lease("stubborn", 1, idle=True) == []
    await lane.check(["lab/b"])
    found = await queue.reclaim("sweeper")
    assert [lease.crashes for lease in found.condemned] == [3]
    assert (await queue.complete(found.condemned[0], "sweeper", "FAILED")).accepted


async def test_attempts_and_crashes_are_counted_apart(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    for crash in (False, True, False):
        await queue.fail(await lane.lease_one(), "w1", crash=crash, delay_s=0)
    lease = await lane.lease_one()
    assert (lease.attempts, lease.crashes, lease.alone) == (2, 1, True)
    events = [(event.state, event.attempts) for event in await queue.events("lab/b", 0) if event.index == 0]
    assert events == [
        ("RUNNING", 1),
        ("QUEUED", 1),
        ("RUNNING", 2),
        ("QUEUED", 2),
        ("RUNNING", 3),
        ("QUEUED", 3),
        ("RUNNING", 4),
    ]


async def test_a_sweep_takes_back_a_hundred_leases_at_a_time(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 150)
    await queue.lease("dead", 150, idle=True)
    await lane.let_leases_run_out()
    assert [(await queue.reclaim("sweeper")).requeued for _ in range(3)] == [100, 50, 0]
    await lane.check(["lab/b"])


async def test_entries_of_an_unknown_batch_are_dropped_and_counted(lane: Lane, queue: Queue) -> None:
    for place in ("ready", "leased", "delayed"):
        await lane.redis.zadd(lane.key(place), {f"lab/gone-{place}/000001": 1})
    assert await queue.lease("w1", 3, idle=True) == []
    assert (await queue.reclaim("sweeper")).condemned == ()
    assert await lane.places() == {"ready": [], "leased": [], "delayed": []}
    assert (await queue.tallies())["orphans"] == 3


async def test_a_slide_of_a_stopped_batch_is_not_condemned(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    for _ in range(2):
        assert await queue.fail(await lane.lease_one(), "w1", crash=True, delay_s=0)
    await lane.lease_one()
    await queue.cancel("lab/b")
    await lane.let_leases_run_out()
    found = await queue.reclaim("sweeper")
    assert (found.requeued, found.condemned) == (1, ())
    assert (await lane.snapshot("lab/b")).cancelled == 2


async def test_I4_a_sweep_that_a_jump_of_the_clock_overtakes_takes_nothing_back(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 1)
    await lane.lease_one()
    await lane.let_leases_run_out()
    now_s = (await queue.server()).time_s
    assert (await queue.reclaim("sweeper", looked_s=now_s - queue.lease_s)).requeued == 0
    assert (await queue.reclaim("sweeper", looked_s=now_s)).requeued == 1


async def test_I6_a_lease_and_a_retry_that_a_clock_put_far_ahead_come_back_in_time(lane: Lane, queue: Queue) -> None:
    await lane.fill("lab/b", 2)
    failed, dead = await queue.lease("w1", 2, idle=True)
    await queue.fail(failed, "w1", crash=False, delay_s=60.0)
    an_hour_ahead = ((await queue.server()).time_s + 3600) * 1000
    await lane.redis.zadd(lane.key("delayed"), {failed.entry: an_hour_ahead})
    await lane.redis.zadd(lane.key("leased"), {dead.entry: an_hour_ahead})
    assert (await queue.reclaim("sweeper")).requeued == 0
    ends_ms = await lane.redis.zscore(lane.key("leased"), dead.entry)
    assert ends_ms / 1000 <= (await queue.server()).time_s + queue.lease_s
    assert [lease.index for lease in await queue.lease("w2", 2, idle=True)] == [failed.index]
    await lane.check(["lab/b"])
