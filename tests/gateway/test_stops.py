"""Cancelling, deadlines and failure ratios."""

from __future__ import annotations

import time

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gramserve.errors import Reason
from gramserve.queue import RenewStatus
from gramserve.rpc.status import from_status
from gramserve.store.records import StopRecord
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1 import slide_pb2
from tests.gateway.stack import STATE, Stack, refused
from tests.waiting import until

SLIDE = slide_pb2.Slide.State


async def cancel(stack: Stack, name: str, etag: str = "") -> b.SlideBatch:
    batch: b.SlideBatch = await stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=name, etag=etag))
    return batch


async def test_cancelling_ends_what_waits_and_lets_finish_what_runs(stack: Stack) -> None:
    batch = await stack.create(5)
    leases = await stack.worker.lease(2)
    stopping = await cancel(stack, batch.name)
    assert stopping.state == STATE.STATE_CANCELLING
    assert stopping.completion_stats.cancelled_count == 3
    assert stopping.completion_stats.running_count == 2
    assert await stack.queue.renew(stack.worker.name, leases) == [RenewStatus.CANCEL] * 2
    for lease in leases:
        assert await stack.worker.finish(lease)
    ended = await stack.ended(batch.name)
    assert ended.state == STATE.STATE_CANCELLED
    assert (ended.completion_stats.succeeded_count, ended.completion_stats.cancelled_count) == (2, 3)
    assert from_status(ended.error).reason is Reason.CANCELLED
    found = (await stack.api.ListSlides(s.ListSlidesRequest(parent=batch.name))).slides
    assert [slide.state for slide in found] == [SLIDE.STATE_SUCCEEDED] * 2 + [SLIDE.STATE_CANCELLED] * 3


async def test_cancelling_may_be_repeated_until_the_batch_has_ended(stack: Stack) -> None:
    batch = await stack.create(2)
    leases = await stack.worker.lease(1)
    await cancel(stack, batch.name)
    assert (await cancel(stack, batch.name)).state == STATE.STATE_CANCELLING
    await stack.worker.finish(leases[0])
    await stack.ended(batch.name)
    code, error = await refused(cancel(stack, batch.name))
    assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.BATCH_TERMINAL)


async def test_a_stale_etag_cancels_nothing(stack: Stack) -> None:
    batch = await stack.create(2)
    leases = await stack.worker.lease(1)
    code, error = await refused(cancel(stack, batch.name, batch.etag))
    assert (code, error.reason) == (grpc.StatusCode.ABORTED, Reason.STALE_ETAG)
    running = await stack.get(batch.name)
    assert running.state == STATE.STATE_RUNNING
    assert (await cancel(stack, batch.name, running.etag)).state == STATE.STATE_CANCELLING
    await stack.queue.release(leases, stack.worker.name)


async def test_I1_a_cancel_that_only_the_store_knows_is_carried_out_by_the_next_gateway(stack: Stack) -> None:
    batch = await stack.create(3)
    await stack.stop_gateway()
    await stack.batches.stop("north", batch.name.rpartition("/")[2], 0, StopRecord("CANCELLED", time.time()))
    await stack.start()
    ended = await stack.ended(batch.name)
    assert ended.state == STATE.STATE_CANCELLED
    assert ended.completion_stats.cancelled_count == 3


async def test_I1_a_cancelled_batch_stays_cancelled_when_redis_loses_everything(stack: Stack) -> None:
    batch = await stack.create(4)
    leases = await stack.worker.lease(1)
    await cancel(stack, batch.name)
    await stack.flush()
    ended = await stack.ended(batch.name)
    assert ended.state == STATE.STATE_CANCELLED
    assert ended.completion_stats.cancelled_count == 4
    assert not (await stack.queue.complete(leases[0], stack.worker.name, "SUCCEEDED")).accepted


def soon(seconds: float) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(round((time.time() + seconds) * 1e6))
    return stamp


async def test_I1_I12_who_was_cancelled_before_the_deadline_stays_so_when_redis_is_lost_after_it(stack: Stack) -> None:
    due = soon(5.0)
    batch = await stack.create(4, deliver_by=due)
    await stack.worker.lease(1)
    await cancel(stack, batch.name)
    await until(lambda: time.time() > due.seconds + due.nanos / 1e9)
    await stack.flush()
    ended = await stack.ended(batch.name)
    assert ended.state == STATE.STATE_CANCELLED
    assert (ended.completion_stats.cancelled_count, ended.completion_stats.expired_count) == (4, 0)


async def test_I1_I12_who_expired_before_it_was_cancelled_stays_so_when_redis_is_lost(stack: Stack) -> None:
    due = soon(2.0)
    batch = await stack.create(4, deliver_by=due)
    await stack.worker.lease(1)
    await until(lambda: time.time() > due.seconds + due.nanos / 1e9)
    await cancel(stack, batch.name)
    await stack.flush()
    ended = await stack.ended(batch.name)
    assert (ended.completion_stats.cancelled_count, ended.completion_stats.expired_count) == (0, 4)


async def test_I12_nothing_starts_after_deliver_by_and_what_is_done_is_delivered(stack: Stack) -> None:
    batch = await stack.create(6, deliver_by=soon(4.0))
    leases = await stack.worker.lease(3)
    await stack.worker.finish(leases[0])
    await stack.worker.finish(leases[1], failed=True)

    async def expired() -> bool:
        return (await stack.get(batch.name)).completion_stats.expired_count == 3

    await until(expired)
    assert await stack.worker.lease(10) == []
    await stack.worker.finish(leases[2])  # it ran already, so it may finish
    ended = await stack.ended(batch.name)
    stats = ended.completion_stats
    assert ended.state == STATE.STATE_EXPIRED
    assert (stats.succeeded_count, stats.failed_count, stats.expired_count) == (2, 1, 3)
    assert from_status(ended.error).reason is Reason.EXPIRED
    code, error = await refused(stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name)))
    assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.DEADLINE_PASSED)


async def test_I12_a_deadline_passes_also_while_no_gateway_runs(stack: Stack) -> None:
    batch = await stack.create(2, deliver_by=soon(2.0))
    await stack.stop_gateway()
    await stack.flush()
    stack.clock.ahead_s = 5
    await stack.start()
    ended = await stack.ended(batch.name)
    assert (ended.state, ended.completion_stats.expired_count) == (STATE.STATE_EXPIRED, 2)


async def test_more_failures_than_allowed_stop_the_batch(stack: Stack) -> None:
    batch = await stack.create(10, max_failed_ratio=0.2)
    leases = await stack.worker.lease(4)
    for lease in leases[:2]:
        await stack.worker.finish(lease, failed=True)
    assert (await stack.get(batch.name)).state == STATE.STATE_RUNNING  # 2 of 10 are allowed
    for lease in leases[2:]:
        await stack.worker.finish(lease, failed=True)
    ended = await stack.ended(batch.name)
    assert ended.state == STATE.STATE_FAILED
    assert from_status(ended.error).reason is Reason.TOO_MANY_FAILURES
    assert (ended.completion_stats.failed_count, ended.completion_stats.cancelled_count) == (4, 6)


async def test_a_batch_that_too_many_failures_stopped_is_not_called_cancelled_after_a_retry(stack: Stack) -> None:
    batch = await stack.create(10, max_failed_ratio=0.2)
    for lease in await stack.worker.lease(3):
        await stack.worker.finish(lease, failed=True)
    assert (await stack.ended(batch.name)).state == STATE.STATE_FAILED
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    ended = await stack.run(batch.name)
    assert (ended.completion_stats.succeeded_count, ended.completion_stats.cancelled_count) == (3, 7)
    assert ended.state == STATE.STATE_PARTIALLY_SUCCEEDED
    assert not ended.HasField("error")


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.7, 1.0])
async def test_a_share_that_is_exactly_allowed_stops_nothing(stack: Stack, ratio: float) -> None:
    batch = await stack.create(10, max_failed_ratio=ratio)
    ended = await stack.run(batch.name, failing=range(round(10 * ratio)))
    expected = STATE.STATE_FAILED if ratio == 1.0 else STATE.STATE_PARTIALLY_SUCCEEDED
    assert ended.state == expected


async def test_a_batch_without_any_result_has_failed(stack: Stack) -> None:
    batch = await stack.create(2)
    ended = await stack.run(batch.name, failing=(0, 1))
    assert ended.state == STATE.STATE_FAILED
    assert ended.completion_stats.failed_count == 2


async def test_only_the_failed_slides_of_an_ended_batch_run_again(stack: Stack) -> None:
    batch = await stack.create(5)
    code, error = await refused(stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name)))
    assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.BATCH_NOT_TERMINAL)
    await stack.run(batch.name, failing=(1, 3), review=(0,))
    stack.worker.ran.clear()

    again = await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    assert (again.retry_round, again.state) == (1, STATE.STATE_QUEUED)
    assert (again.completion_stats.succeeded_count, again.completion_stats.queued_count) == (3, 2)
    ended = await stack.run(batch.name, failing=(3,))
    assert [index for _, index in sorted(stack.worker.ran)] == [1, 3]
    assert ended.state == STATE.STATE_PARTIALLY_SUCCEEDED
    stats = ended.completion_stats
    assert (stats.succeeded_count, stats.failed_count, stats.review_count) == (4, 1, 1)

    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    ended = await stack.run(batch.name)
    assert (ended.retry_round, ended.state) == (2, STATE.STATE_SUCCEEDED)
    code, error = await refused(stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name)))
    assert (code, error.reason) == (grpc.StatusCode.FAILED_PRECONDITION, Reason.NOTHING_TO_RETRY)


async def test_I1_a_retry_survives_the_loss_of_redis(stack: Stack) -> None:
    batch = await stack.create(6)
    await stack.run(batch.name, failing=(1, 2, 5))
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    await stack.worker.finish((await stack.worker.lease(1))[0])
    await stack.flush()
    await until(lambda: _queued(stack, 2))
    ended = await stack.run(batch.name, failing=(5,))
    stats = ended.completion_stats
    assert (stats.succeeded_count, stats.failed_count, stats.total_count) == (5, 1, 6)


async def test_a_slide_whose_retry_was_cancelled_is_cancelled(stack: Stack) -> None:
    batch = await stack.create(3)
    await stack.run(batch.name, failing=(2,))
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    await cancel(stack, batch.name)
    ended = await stack.ended(batch.name)
    assert ended.state == STATE.STATE_CANCELLED
    assert (ended.completion_stats.succeeded_count, ended.completion_stats.cancelled_count) == (2, 1)


async def _queued(stack: Stack, count: int) -> bool:
    return (await stack.queue.depth()).ready_routine == count
