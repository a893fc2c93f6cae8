"""What a gateway shows to Prometheus: slides accepted and ended add up, what is due when, Redis and the store."""

from __future__ import annotations

import shutil
import time
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gramserve.v1 import slide_batch_service_pb2 as s
from tests.exposition import Exposition, free_port, scrape
from tests.gateway.stack import Stack
from tests.waiting import until


async def _shown(stack: Stack) -> tuple[Stack, int]:
    port = free_port()
    await stack.restart(metrics_port=port)
    return stack, port


async def _when(port: int, reached: Any) -> Exposition:
    async def look() -> Exposition | None:
        shown = await scrape(port)
        return shown if reached(shown) else None

    found = await until(look, what="the gateway shows it")
    assert found is not None
    return found


def _due(after_s: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(int((time.time() + after_s) * 1e9))
    return stamp


async def test_slides_accepted_are_those_that_workers_finished_and_those_that_the_gateway_ended(stack: Stack) -> None:
    stack, port = await _shown(stack)
    done = await stack.create(5)
    await stack.run(done.name, failing=[1])
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=done.name))
    await stack.run(done.name)
    late = await stack.create(4, deliver_by=_due(60))
    await stack.worker.finish((await stack.worker.lease())[0])
    stack.clock.ahead_s = 120
    await stack.ended(late.name)
    cancelled = await stack.create(3)
    await stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=cancelled.name))
    await stack.ended(cancelled.name)
    shown = await _when(port, lambda now: now.total("slides_ended_total") == 6)
    assert shown.value("slides_accepted_total", priority="ROUTINE") == 12
    assert shown.value("slides_accepted_total", priority="STAT") == 0
    assert shown.value("slides_resubmitted_total", priority="ROUTINE") == 1
    assert shown.value("slides_ended_total", state="EXPIRED", reason="EXPIRED") == 3
    assert shown.value("slides_ended_total", state="CANCELLED", reason="CANCELLED") == 3
    finished = len(stack.worker.ran)
    assert shown.total("slides_accepted_total") + shown.total("slides_resubmitted_total") == finished + 6


async def test_a_slide_given_up_after_crashes_is_one_that_the_gateway_ended(stack: Stack) -> None:
    port = free_port()
    await stack.restart(metrics_port=port, max_crashes=1, lease_s=1.0)
    await stack.create(1)
    lease = (await stack.queue.lease("a-worker-that-dies", 1, idle=True))[0]
    assert lease.index == 0
    await stack.lapse(lease)
    shown = await _when(port, lambda now: now.value("slides_ended_total", state="FAILED", reason="WORKER_CRASHED"))
    assert shown.value("slides_ended_total", state="FAILED", reason="WORKER_CRASHED") == 1
    assert shown.value("slides_quarantined_total") == 1


async def test_what_waits_and_what_is_due_within_which_time_is_shown(stack: Stack) -> None:
    stack, port = await _shown(stack)
    await stack.create(2, deliver_by=_due(600))
    await stack.create(3, deliver_by=_due(3 * 3600))
    await stack.create(4)
    await stack.create(1, priority=2)
    shown = await _when(port, lambda now: now.value("slides_due", within="any") == 10)
    due = {w: shown.value("slides_due", within=w) for w in ("15m", "1h", "2h", "4h", "8h", "16h")}
    assert due == {"15m": 2, "1h": 2, "2h": 2, "4h": 5, "8h": 5, "16h": 5}
    shown = await _when(port, lambda now: now.value("queue_depth", place="ready_stat") == 1)
    assert shown.value("queue_depth", place="ready_routine") == 9
    assert (shown.value("queue_oldest_seconds", priority="STAT") or 0) > 0
    assert (shown.value("queue_oldest_seconds", priority="ROUTINE") or 0) > 0
    await stack.worker.drain()
    shown = await _when(port, lambda now: now.value("slides_due", within="any") == 0)
    shown = await _when(port, lambda now: now.value("queue_depth", place="ready_routine") == 0)
    assert shown.value("queue_oldest_seconds", priority="ROUTINE") == 0


async def test_what_another_gateway_accepted_is_due_here_too_long_before_the_next_scan(stack: Stack) -> None:
    other, port = Stack(stack.folder, stack.redis), free_port()
    await other.start(metrics_port=port, find_interval_s=0.05)
    try:
        await _when(port, lambda now: now.value("slides_due", within="any") == 0)
        batch = await stack.create(2)
        await _when(port, lambda now: now.value("slides_due", within="any") == 2)
        await stack.run(batch.name)
        await _when(port, lambda now: now.value("slides_due", within="any") == 0)
    finally:
        await other.stop()


async def test_what_is_overdue_is_due_within_any_time(stack: Stack) -> None:
    stack, port = await _shown(stack)
    await stack.create(2, deliver_by=_due(3600))
    [lease, _] = await stack.worker.lease(2)
    stack.clock.ahead_s = 7200
    await _when(port, lambda now: now.value("slides_due", within="15m") == 2)
    await stack.worker.finish(lease)


async def test_the_memory_of_redis_and_the_space_of_the_store_are_shown(stack: Stack) -> None:
    stack, port = await _shown(stack)
    shown = await _when(port, lambda now: now.value("redis_memory_bytes"))
    assert shown.value("redis_memory_limit_bytes") == 0
    space = shutil.disk_usage(stack.folder)
    assert shown.value("store_size_bytes") == space.total
    assert shown.value("store_free_bytes") == pytest.approx(space.free, rel=0.5)
    await stack.command("CONFIG", "SET", "maxmemory", "64mb")
    await _when(port, lambda now: now.value("redis_memory_limit_bytes") == 64 * 2**20)


async def test_series_of_closed_sets_are_there_before_anything_happened(stack: Stack) -> None:
    # Prometheus sees no increase in a series that begins with its first count.
    _, port = await _shown(stack)
    shown = await scrape(port)
    assert shown.value("slides_accepted_total", priority="STAT") == 0
    assert shown.value("slides_ended_total", state="EXPIRED", reason="EXPIRED") == 0
    assert shown.value("reconcile_repairs_total", cause="lease") == 0
    assert shown.value("batches_finished_total", state="PARTIALLY_SUCCEEDED") == 0
    assert shown.value("purged_total", kind="images") == 0
