"""A record that the disk damaged costs its own batch, and no other one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
from typer.testing import CliRunner

from gateway.names import BatchName
from gramserve.cli import app
from gramserve.errors import Reason
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.store import layout
from gramserve.store.audit import AuditLog
from gramserve.store.purge import Purger
from gramserve.store.retention import DAY_S, RetentionDays
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.stack import LAB, STATE, Stack, refused
from tests.waiting import until


async def damage(stack: Stack, path: str) -> None:
    await stack.objects.put(path, b"{")


async def test_I1_a_batch_whose_record_is_damaged_keeps_no_other_from_being_put_back_into_the_queue(
    tmp_path: Path, redis: EmbeddedRedis
) -> None:
    stack = Stack(tmp_path, redis)
    await stack.publish()
    await stack.start()
    try:
        await stack.create(2, batch_id="aaaa")  # looked after before the other one
        other = await stack.create(3, batch_id="bbbb")
        await stack.stop_gateway()
        await damage(stack, layout.batch_path("north", "aaaa"))
        await stack.flush()
        await stack.start()
        await until(lambda: _in_the_queue(stack, "bbbb"))
        assert (await stack.run(other.name)).state == STATE.STATE_SUCCEEDED
    finally:
        await stack.stop()


async def test_I1_batches_that_cannot_be_finished_keep_no_other_from_its_end(stack: Stack) -> None:
    for number in range(9):
        batch = await stack.create(1, batch_id=f"damaged-{number}")
        await damage(stack, layout.stop_path("north", batch.name.rpartition("/")[2], 0))
    await stack.worker.drain()
    other = await stack.create(1)
    assert (await stack.run(other.name)).state == STATE.STATE_SUCCEEDED


async def test_a_damaged_batch_does_not_close_its_laboratory_where_there_are_quotas(
    tmp_path: Path, redis: EmbeddedRedis
) -> None:
    stack = Stack(tmp_path, redis, laboratory_queued_slides=10, laboratory_open_batches=5)
    await stack.publish()
    await stack.start()
    try:
        await stack.create(2, batch_id="aaaa")
        await damage(stack, layout.batch_path("north", "aaaa"))
        await stack.restart()
        assert (await stack.create(3)).completion_stats.total_count == 3
    finally:
        await stack.stop()


async def test_I7_a_slide_that_cannot_be_quarantined_keeps_no_other_from_its_end(
    tmp_path: Path, redis: EmbeddedRedis
) -> None:
    stack = Stack(tmp_path, redis, lease_s=0.6, max_crashes=1)
    await stack.publish()
    await stack.start()
    try:
        batch = await stack.create(2, batch_id="crashes")
        first, _second = await stack.worker.lease(2)
        await damage(stack, layout.outcome_path("north", "crashes", 0, first.index))

        async def other_ended() -> bool:
            return (await stack.get(batch.name)).completion_stats.failed_count == 1

        await until(other_ended)
    finally:
        await stack.stop()


async def test_what_is_damaged_stays_and_is_counted_and_keeps_nothing_else_from_going(stack: Stack) -> None:
    for name, path in (
        ("aaaa", layout.batch_path("north", "aaaa")),
        ("bbbb", layout.final_path("north", "bbbb", 0)),
        ("cccc", layout.tombstone_path("north", "cccc")),
    ):
        await _ended_batch(stack, name)
        await damage(stack, path)
    await damage(stack, "optimizations/a/outcome.json")
    await stack.objects.put("uploads/north/0123/0", b"x")
    old = await _ended_batch(stack, "zzzz")
    stack.clock.ahead_s = 31 * DAY_S
    keep = RetentionDays(batches=30, uploads=30, optimizations=30)
    purging = Purger(stack.objects, keep, AuditLog(stack.objects, clock=stack.clock), clock=stack.clock)
    purged = await purging.purge()
    assert (purged["batches"], purged["uploads"], purging.damaged) == (1, 1, 4)
    code, error = await refused(stack.get(old.name))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.BATCH_PURGED)
    assert await stack.objects.folders("batches/north") == ["aaaa", "bbbb", "cccc"]
    words = ["purge", "--store", stack.store_url, "--batches", "30", "--dry-run"]
    assert "damaged records passed over: 3" in (await asyncio.to_thread(CliRunner().invoke, app, words)).output


async def test_I2_a_retry_whose_earlier_end_the_disk_lost_turns_no_result_into_a_loss(stack: Stack) -> None:
    batch = await stack.create(3, batch_id="retried")
    await stack.run(batch.name, failing=(1,))
    final = layout.final_path("north", "retried", 0)
    kept = await stack.objects.get(final)
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    await stack.objects.delete(final)
    await stack.worker.drain()
    other = await stack.create(1)
    assert (await stack.run(other.name)).state == STATE.STATE_SUCCEEDED  # long enough for the other one to end
    assert await stack.batches.recorded("north", "retried", 1) == [1]
    await stack.objects.put(final, kept)  # from a backup
    assert (await stack.ended(batch.name)).completion_stats.succeeded_count == 3


async def _ended_batch(stack: Stack, name: str) -> b.SlideBatch:
    return await stack.run((await stack.create(1, batch_id=name)).name)


async def _in_the_queue(stack: Stack, batch: str) -> bool:
    return await stack.queue.snapshot(BatchName("north", batch).key) is not None


async def test_a_list_of_batches_leaves_out_those_whose_records_are_damaged_and_names_them(stack: Stack) -> None:
    whole, torn, halved = [await stack.create(1, batch_id=name) for name in ("whole", "torn", "halved")]
    await stack.worker.drain()
    for batch in (whole, torn, halved):
        await stack.run(batch.name)
    await stack.stop_gateway()
    await damage(stack, layout.batch_path("north", "torn"))
    await damage(stack, layout.final_path("north", "halved", 0))
    await stack.start()
    listed = await stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent=LAB))
    assert [batch.name for batch in listed.slide_batches] == [whole.name]
    assert list(listed.unreachable) == [halved.name, torn.name]
    assert not listed.next_page_token
