"""I11: the worker outlives Redis and the store, and consumes again by itself."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

from gramserve.queue import EmbeddedRedis
from gramserve.store.records import SlideState
from tests.inference.bench import Bench
from tests.inference.test_stopping import NOT_SERVING, SERVING, health
from tests.waiting import HANGS_S, until


async def test_I11_after_a_killed_redis_it_consumes_again_and_health_follows(
    own_redis: EmbeddedRedis, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, own_redis.url)
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.worker(children=1) as worker:
        await bench.held(image)
        assert await health(worker.port) == SERVING
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGKILL)
        await until(lambda: _health_is(worker.port, NOT_SERVING))
        bench.let_go(image)
        await own_redis.start()
        # What ran through the outage is completed under its old lease.
        assert (await bench.ended())[0].attempts == 1
        await until(lambda: _health_is(worker.port, SERVING))
        await bench.submit([await bench.field()], version, batch="b2")
        assert (await bench.ended("b2"))[0].state is SlideState.SUCCEEDED
        assert len(bench.runs(image)) == 1
    await bench.close()


async def test_I11_redis_that_stands_still_is_noticed_and_forgiven(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    bench = Bench(tmp_path, own_redis.url, lease_s=1.0)
    version = await bench.publish()
    async with bench.worker(children=1) as worker:
        assert own_redis.pid is not None
        os.kill(own_redis.pid, signal.SIGSTOP)
        await until(lambda: not worker.serving)
        os.kill(own_redis.pid, signal.SIGCONT)
        await until(lambda: worker.serving)
        await bench.submit([await bench.field()], version)
        assert (await bench.ended())[0].attempts == 1
    await bench.close()


async def test_a_worker_that_starts_before_redis_waits_for_it(own_redis: EmbeddedRedis, tmp_path: Path) -> None:
    from inference_svc.app import App

    bench = Bench(tmp_path, own_redis.url)
    version = await bench.publish()
    await own_redis.stop()
    app = App(bench.settings(children=1))
    await app.start()
    try:
        assert await health(app.port) == NOT_SERVING
        await own_redis.start()
        await asyncio.wait_for(app.ready(), HANGS_S)
        await bench.submit([await bench.field()], version)
        assert (await bench.ended())[0].state is SlideState.SUCCEEDED
    finally:
        await app.stop()
        await bench.close()


async def test_I1_after_flushall_the_rebuilt_batch_ends_with_one_outcome_for_each_slide(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    images = [await bench.field() for _ in range(12)]
    bench.hold(images[5])
    await bench.submit(images, version)
    async with bench.worker(children=2) as worker:
        await bench.held(images[5])
        await bench.redis.flushall()
        # As the reconciler does it: whatever has no outcome is queued again.
        missing = sorted(set(range(12)) - set(await bench.outcomes()))
        await bench.queue.open(
            "lab-1/b1", round=0, total=12, priority_stat=False, due_s=1.9e9,
            version=version.name, digest=version.digest,
        )  # fmt: skip
        await bench.queue.submit("lab-1/b1", missing)
        bench.let_go(images[5])

        async def all_there() -> bool:
            return len(await bench.outcomes()) == 12 and (await bench.snapshot()).live == 0

        await until(all_there)
        # A run whose lease was lost by the flush is thrown away when it ends.
        await until(lambda: len(worker.held) == 0)
    outcomes = await bench.outcomes()
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}
    assert all(len(states) == 1 for states in (await bench.terminal_events()).values())


async def test_a_store_that_fails_costs_time_and_no_slide(bench: Bench, tmp_path: Path) -> None:
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image, *[await bench.field() for _ in range(5)]], version)
    store, away = tmp_path / "store", tmp_path / "away"
    async with bench.worker(children=1) as worker:
        await bench.held(image)
        # A file where the folder was: nothing below it can be read or written, as with a mount that went away.
        store.rename(away)
        store.touch()
        bench.let_go(image)
        await until(lambda: not worker.storage.usable)
        await until(lambda: not worker.serving)
        store.unlink()
        away.rename(store)
        outcomes = await bench.ended()
        await until(lambda: worker.serving)
    shutil.rmtree(away, ignore_errors=True)
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}


async def _health_is(port: int, status: int) -> bool:
    return await health(port) == status


async def test_a_slide_that_began_before_the_store_came_back_is_run_again_and_not_charged(bench: Bench) -> None:
    """On S3 a read fails seconds after the storage was asked: by then it may be there again."""
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.worker(children=1, max_attempts=1) as worker:
        await bench.held(image)
        store, elsewhere = bench.folder / "store", bench.folder / "elsewhere"
        store.rename(elsewhere)
        store.touch()
        assert not await worker.storage.check()
        store.unlink()
        elsewhere.rename(store)
        (pixels,) = store.glob("slides/*/*")
        pixels.unlink()
        assert await worker.storage.check()
        bench.let_go(image)
        (outcome,) = (await bench.ended()).values()
    assert (outcome.state, outcome.attempts) == (SlideState.FAILED, 1)  # its own fault, the second time
    assert len(bench.runs(image)) == 2
