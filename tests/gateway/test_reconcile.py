"""The store is the truth: whatever becomes of Redis, of workers and of gateways, every slide ends exactly once."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.placement import Placement
from gateway.reconcile import Reconciler
from gateway.rounds import Progress, Rounds
from gramserve.errors import Reason
from gramserve.queue import Queue
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.rpc.status import from_status
from gramserve.store import batches, disk
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1 import slide_pb2
from tests.gateway.stack import STATE, Stack
from tests.waiting import until

SLIDE = slide_pb2.Slide.State


async def slides_of(stack: Stack, name: str) -> list[slide_pb2.Slide]:
    found, token = [], ""
    while True:
        page = await stack.api.ListSlides(s.ListSlidesRequest(parent=name, page_size=1000, page_token=token))
        found += page.slides
        token = page.next_page_token
        if not token:
            return found


async def test_I1_every_slide_ends_once_although_redis_is_flushed_again_and_again(stack: Stack) -> None:
    batch = await stack.create(120)
    async with stack.worker.working():
        for done in (20, 50, 90):
            await until(lambda done=done: len(stack.worker.ran) >= done)  # type: ignore[misc]
            await stack.flush()
        ended = await stack.ended(batch.name)

    assert ended.state == STATE.STATE_SUCCEEDED
    assert ended.completion_stats.succeeded_count == 120
    assert [slide.state for slide in await slides_of(stack, batch.name)] == [SLIDE.STATE_SUCCEEDED] * 120
    assert len(await stack.batches.recorded("north", batch.name.rpartition("/")[2], 0)) == 120
    assert stack.counted("reconcile_repairs", cause="rebuild") > 0


async def test_I1_redis_is_killed_in_the_middle_and_comes_back(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis, lease_s=1.0)
    await stack.publish()
    await stack.start()
    try:
        batch = await stack.create(100)
        async with stack.worker.working():
            await until(lambda: len(stack.worker.ran) >= 30)
            assert redis.pid is not None
            os.kill(redis.pid, signal.SIGKILL)
            await until(lambda: not redis.alive)
            await redis.start()
            ended = await stack.ended_in_spite_of_outages(batch.name)
        assert ended.completion_stats.succeeded_count == 100
    finally:
        await stack.stop()


async def test_I1_a_batch_whose_last_slides_end_while_no_gateway_runs_is_finished_later(stack: Stack) -> None:
    batch = await stack.create(4)
    await stack.stop_gateway()
    await stack.worker.drain()
    await stack.start()
    assert (await stack.ended(batch.name)).state == STATE.STATE_SUCCEEDED


async def test_open_batches_are_not_read_at_each_look_however_many_there_are(
    tmp_path: Path, redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_RECENT_BATCHES", 1)
    step, read = Reconciler.step, disk.read
    looks: list[int] = []
    reads: list[str] = []

    async def looked(self: Reconciler) -> None:
        await step(self)
        looks.append(1)

    def watched(name: str) -> bytes:
        reads.append(name)
        return read(name)

    monkeypatch.setattr(Reconciler, "step", looked)
    monkeypatch.setattr(disk, "read", watched)
    stack = Stack(tmp_path, redis)
    await stack.publish()
    await stack.start()
    try:
        for _ in range(3):
            await stack.create(1)
        looks.clear()
        await until(lambda: len(looks) >= 2)
        looks.clear()
        reads.clear()
        await until(lambda: len(looks) >= 3)
        assert [name for name in reads if name.endswith("batch.json")] == []
    finally:
        await stack.stop()


async def test_I1_outcomes_that_only_the_store_has_count_after_a_loss(stack: Stack) -> None:
    batch = await stack.create(3)
    await stack.stop_gateway()
    await stack.worker.drain()
    await stack.flush()
    await stack.start()
    ended = await stack.ended(batch.name)
    assert (ended.state, ended.completion_stats.succeeded_count) == (STATE.STATE_SUCCEEDED, 3)
    assert await stack.worker.lease(1) == []


async def test_I8_a_slide_that_fell_out_of_the_queue_is_put_back(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis, stall_s=0.1)
    await stack.publish()
    await stack.start()
    try:
        batch = await stack.create(3)
        entry = f"north/{batch.name.rpartition('/')[2]}/000001"
        assert await stack.command("ZREM", "{gs:slides}:ready", entry) == 1
        await until(lambda: stack.counted("reconcile_repairs", cause="audit") == 1)
        assert (await stack.run(batch.name)).completion_stats.succeeded_count == 3
    finally:
        await stack.stop()


async def test_I7_a_slide_that_takes_its_workers_with_it_is_quarantined(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis, max_crashes=2)
    await stack.publish()
    await stack.start(lease_s=1.0)  # for so long it reclaims nothing; the worker's leases are longer
    try:
        batch = await stack.create(2)
        poisoned = (await stack.worker.lease(1))[0]
        await stack.worker.drain()  # its neighbour finishes
        assert poisoned.crashes == 0
        await stack.lapse(poisoned)
        again = await until(lambda: stack.worker.lease(1))
        assert (again[0].index, again[0].crashes, again[0].alone) == (poisoned.index, 1, True)
        await stack.lapse(again[0])
        ended = await stack.ended(batch.name)
        assert ended.state == STATE.STATE_PARTIALLY_SUCCEEDED
        failed = (await slides_of(stack, batch.name))[poisoned.index]
        error = from_status(failed.error)
        assert (error.reason, failed.attempt_count) == (Reason.WORKER_CRASHED, 2)
        assert stack.counted("slides_quarantined") == 1
    finally:
        await stack.stop()


async def test_I2_a_result_written_by_a_worker_that_died_then_wins_over_quarantine(
    tmp_path: Path, redis: EmbeddedRedis
) -> None:
    stack = Stack(tmp_path, redis, max_crashes=1)
    await stack.publish()
    await stack.start(lease_s=1.0)  # for so long it reclaims nothing; the worker's leases are longer
    try:
        batch = await stack.create(1)
        (lease,) = await stack.worker.lease(1)
        await stack.worker.record(lease)  # durable, but never completed
        await stack.lapse(lease)
        ended = await stack.ended(batch.name)
        assert (ended.state, ended.completion_stats.succeeded_count) == (STATE.STATE_SUCCEEDED, 1)
    finally:
        await stack.stop()


async def test_I1_a_slide_that_redis_calls_done_and_the_store_does_not_know_fails_by_name(stack: Stack) -> None:
    batch = await stack.create(2)
    for lease in await stack.worker.lease(2):
        await stack.queue.complete(lease, stack.worker.name, "SUCCEEDED")
    ended = await stack.ended(batch.name)
    assert (ended.state, ended.completion_stats.failed_count) == (STATE.STATE_FAILED, 2)
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    assert (await stack.run(batch.name)).state == STATE.STATE_SUCCEEDED


async def test_I1_two_gateways_tend_one_batch_and_end_it_once(stack: Stack) -> None:
    other = Stack(stack.folder, stack.redis)
    await other.start(scan_interval_s=0.05)
    try:
        batch = await stack.create(60)
        async with stack.worker.working():
            await until(lambda: len(stack.worker.ran) >= 20)
            await stack.flush()
            first, second = await asyncio.gather(stack.ended(batch.name), other.ended(batch.name))
        assert first.completion_stats.succeeded_count == 60
        assert first.output_info == second.output_info
        finished = [one.counted("batches_finished", state="SUCCEEDED") for one in (stack, other)]
        assert sum(finished) == 1
    finally:
        await other.stop()


async def test_I2_of_two_gateways_that_put_a_batch_back_the_slower_one_queues_nothing_that_has_ended(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = await stack.create(3)
    (lease,) = await stack.worker.lease(1)
    await stack.stop_gateway()
    await stack.flush()
    record = await stack.batches.get_batch("north", batch.name.rpartition("/")[2])
    assert record is not None
    rounds = Rounds(stack.batches)
    slower, faster = (Placement(stack.batches, rounds, stack.queue, stack.clock) for _ in range(2))
    progress, submit = Rounds.progress, Queue.submit
    opened, submitted = asyncio.Event(), asyncio.Event()
    restoring: list[asyncio.Task[int]] = []

    async def overtaken(self: Rounds, *what: Any) -> Progress:
        monkeypatch.setattr(Rounds, "progress", progress)
        seen = await progress(self, *what)
        await stack.worker.record(lease)  # by a worker that was at it when Redis was lost
        restoring.append(asyncio.create_task(faster.restore(record)))
        await opened.wait()
        return seen

    async def held_up(self: Queue, *what: Any) -> int:
        monkeypatch.setattr(Queue, "submit", submit)
        opened.set()
        await submitted.wait()
        return await submit(self, *what)

    monkeypatch.setattr(Rounds, "progress", overtaken)
    monkeypatch.setattr(Queue, "submit", held_up)
    await slower.restore(record)
    submitted.set()
    await asyncio.gather(*restoring)
    await stack.start()
    ended = await stack.run(batch.name)
    assert ended.completion_stats.succeeded_count == 3
    assert sorted(index for _, index in stack.worker.ran) == [1, 2]


async def test_I9_redis_keeps_nothing_of_an_ended_batch_beyond_retention(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis, event_retention_s=0.05)
    await stack.publish()
    await stack.start()
    try:
        batch = await stack.create(20)
        await stack.run(batch.name, failing=(3,))
        key = batch.name.rpartition("/")[2]

        async def gone() -> bool:
            return not [one for one in await stack.command("KEYS", "*") if key in one]

        await until(gone)
        assert (await stack.get(batch.name)).completion_stats.failed_count == 1
    finally:
        await stack.stop()
