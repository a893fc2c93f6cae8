"""Leases hold while the worker lives and end with it; a worker that lost one changes nothing."""

from __future__ import annotations

import signal

from gramserve.store.records import SlideState
from tests.inference.bench import LABORATORY, Bench
from tests.waiting import until


async def test_I4_a_slide_of_several_leases_is_not_taken_from_a_living_worker(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.worker(children=1):
        await bench.held(image)
        start = (await bench.queue.server()).time_s

        async def three_leases_later() -> bool:
            found = await bench.queue.reclaim("sweeper")
            assert (found.requeued, found.condemned) == (0, ())
            return (await bench.queue.server()).time_s > start + 3 * bench.lease_s

        await until(three_leases_later)
        bench.let_go(image)
        outcomes = await bench.ended()
    assert outcomes[0].attempts == 1
    assert len(bench.runs(image)) == 1


async def test_I6_another_worker_takes_over_from_one_that_was_killed(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    images = [await bench.field() for _ in range(10)]
    bench.hold(images[3])
    await bench.submit(images, version)
    async with bench.process(children=1) as first:
        await bench.held(images[3])
        await first.kill()
    bench.let_go(images[3])
    async with bench.worker(children=1) as second:
        outcomes = await bench.ended(sweep=True)
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}
    assert outcomes[3].worker_id == second.worker_id
    assert await bench.terminal_events() == {index: ["SUCCEEDED"] for index in range(10)}


async def test_I5_a_worker_that_stood_still_for_longer_than_its_lease_writes_nothing(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.process(children=1) as zombie:
        await bench.held(image)
        zombie.send(signal.SIGSTOP)
        await bench.sweep_until()
        # Its child goes on and ends the slide; the worker finds that answer when it wakes up.
        bench.let_go(image)
        async with bench.worker(children=1) as heir:
            before = await bench.ended()
            assert before[0].worker_id == heir.worker_id
            zombie.send(signal.SIGCONT)
            await zombie.logged("lease lost; its work is thrown away")
            # It consumes again, so whatever it had to say about the old slide has been said.
            await heir.stop(0.0)
            await bench.submit([await bench.field()], version, batch="b2")
            assert (await bench.ended("b2"))[0].worker_id != heir.worker_id
    assert await bench.outcomes() == before
    assert await bench.terminal_events() == {0: ["SUCCEEDED"]}


async def test_I5_a_worker_that_wakes_up_before_anybody_took_over_keeps_its_slide(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.process(children=1) as worker:
        await bench.held(image)
        worker.send(signal.SIGSTOP)
        start = (await bench.queue.server()).time_s

        async def two_leases_later() -> bool:
            return (await bench.queue.server()).time_s > start + 2 * bench.lease_s

        await until(two_leases_later)
        bench.let_go(image)
        worker.send(signal.SIGCONT)
        outcomes = await bench.ended()
    assert outcomes[0].attempts == 1
    assert len(bench.runs(image)) == 1


async def test_slides_of_a_cancelled_batch_that_were_not_begun_are_given_back(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    images = [await bench.field() for _ in range(4)]
    bench.hold(images[0])
    key = await bench.submit(images, version)
    async with bench.worker(children=1) as worker:
        await bench.held(images[0])
        await until(lambda: len(worker.held) == 2)
        await bench.queue.cancel(key)
        await until(lambda: len(worker.held) == 1)
        bench.let_go(images[0])
        outcomes = await bench.ended()
    # Two are leased together, and either of them may have been begun first.
    assert 0 in outcomes
    snapshot = await bench.snapshot()
    assert (snapshot.succeeded, snapshot.cancelled) == (len(outcomes), 4 - len(outcomes))
    assert [len(bench.runs(image)) for image in images] == [int(index in outcomes) for index in range(4)]
    assert snapshot.cancelled >= 2


async def test_I2_a_worker_completes_what_another_one_left_durable_without_running_it_again(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    image = await bench.field()
    await bench.submit([image], version)
    async with bench.worker(children=1):
        first = (await bench.ended())[0]
    await bench.redis.flushall()
    await bench.enqueue("b1", [0], version)
    # A worker that died between writing the outcome and completing the slide.
    leases = await bench.queue.lease("dead", 1, idle=True)
    assert len(leases) == 1
    await bench.sweep_until()
    async with bench.worker(children=1):
        assert (await bench.ended())[0] == first
    assert len(bench.runs(image)) == 1
    assert await bench.batches.outcome(LABORATORY, "b1", 0) == first
