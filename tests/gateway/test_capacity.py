"""Saying no honestly: a full or absent Redis, a full store."""

from __future__ import annotations

import asyncio
import resource

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gramserve.errors import Reason
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.stack import STATE, Stack, new_request_id, refused, request
from tests.waiting import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health(stack: Stack, service: str = "") -> int:
    check = health_pb2_grpc.HealthStub(stack.channel).Check
    answer = await check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


async def becomes(stack: Stack, status: int) -> None:
    async def look() -> bool:
        return await health(stack) == status

    await until(look)


async def test_I10_a_full_queue_refuses_before_anything_is_written(stack: Stack) -> None:
    await stack.restart(max_queued_slides=5)
    await stack.create(3)
    asked = request(3, request_id=new_request_id())
    code, error = await refused(stack.api.CreateSlideBatch(asked))
    assert (code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL)
    assert error.retry_after_s
    assert len(await stack.objects.folders("batches/north")) == 1
    assert await stack.objects.folders("requests") == []
    await stack.worker.drain()
    assert (await stack.api.CreateSlideBatch(asked)).state == STATE.STATE_QUEUED


async def test_I10_a_full_queue_refuses_a_retry_too(stack: Stack) -> None:
    await stack.restart(max_queued_slides=3)
    batch = await stack.create(2)
    await stack.run(batch.name, failing=(0, 1))
    waiting = await stack.create(2)
    retry = s.RetrySlideBatchRequest(name=batch.name)
    code, error = await refused(stack.api.RetrySlideBatch(retry))
    assert (code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.QUEUE_FULL)
    assert (await stack.get(batch.name)).retry_round == 0
    await stack.run(waiting.name)
    assert (await stack.api.RetrySlideBatch(retry)).retry_round == 1


async def test_I10_without_redis_a_create_is_unavailable_and_writes_nothing(stack: Stack) -> None:
    running = await stack.create(1)
    await stack.worker.drain()
    await stack.ended(running.name)
    await stack.redis.stop()
    asked = request(3, request_id=new_request_id())
    code, error = await refused(stack.api.CreateSlideBatch(asked))
    assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.QUEUE_UNAVAILABLE)
    assert error.retry_after_s
    assert len(await stack.objects.folders("batches/north")) == 1
    # What has ended is in the store and can be read.
    assert (await stack.get(running.name)).state == STATE.STATE_SUCCEEDED
    await stack.redis.start()
    again = await stack.api.CreateSlideBatch(asked)
    assert (await stack.run(again.name)).state == STATE.STATE_SUCCEEDED


async def test_I11_health_follows_redis_by_itself(stack: Stack) -> None:
    assert await health(stack) == SERVING
    assert await health(stack, "gramserve.v1.SlideBatchService") == SERVING
    await stack.redis.stop()
    await becomes(stack, NOT_SERVING)
    await stack.redis.start()
    await becomes(stack, SERVING)


async def test_I11_health_follows_the_store_by_itself(stack: Stack) -> None:
    await stack.restart(probe_interval_s=0.01)
    # Root writes wherever it likes, so the folder is not made read-only but replaced by a file.
    probe = stack.folder / "store" / "probe"
    probe.rename(probe.with_name("away"))
    probe.write_text("")
    await becomes(stack, NOT_SERVING)
    probe.unlink()
    await becomes(stack, SERVING)


async def test_I10_redis_without_memory_drops_nothing_that_the_store_has(stack: Stack) -> None:
    before = await stack.create(2)
    used = (await stack.command("INFO", "memory"))["used_memory"]
    await stack.command("CONFIG", "SET", "maxmemory", str(used // 2))
    asked = request(4, request_id=new_request_id())
    code, error = await refused(stack.api.CreateSlideBatch(asked))
    assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED}
    assert error.retry_after_s
    # Completing works while submitting is refused.
    assert (await stack.run(before.name)).state == STATE.STATE_SUCCEEDED
    await stack.command("CONFIG", "SET", "maxmemory", "0")
    again = await stack.api.CreateSlideBatch(asked)
    assert (await stack.run(again.name)).completion_stats.succeeded_count == 4


async def test_I10_a_retry_that_redis_has_no_memory_for_is_accepted_and_never_called_refused(stack: Stack) -> None:
    batch = await stack.create(3)
    await stack.run(batch.name, failing=(1,))
    used = (await stack.command("INFO", "memory"))["used_memory"]
    await stack.command("CONFIG", "SET", "maxmemory", str(used // 2))
    asked = s.RetrySlideBatchRequest(name=batch.name, request_id=new_request_id())
    for _ in range(2):
        code, error = await refused(stack.api.RetrySlideBatch(asked))
        assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, Reason.QUEUE_UNAVAILABLE)
    assert (await stack.get(batch.name)).retry_round == 1
    await stack.command("CONFIG", "SET", "maxmemory", "0")
    assert (await stack.api.RetrySlideBatch(asked)).retry_round == 1
    assert (await stack.run(batch.name)).state == STATE.STATE_SUCCEEDED


async def test_I10_a_full_store_refuses_and_accepts_nothing(stack: Stack) -> None:
    asked = request(2000, request_id=new_request_id())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # no file may grow over this, as on a full disk
    try:
        code, error = await refused(stack.api.CreateSlideBatch(asked))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.STORE_FULL)
    assert error.retry_after_s
    assert (await stack.queue.depth()).ready_routine == 0
    answers = await asyncio.gather(*(stack.api.CreateSlideBatch(asked) for _ in range(2)))
    assert {answer.completion_stats.total_count for answer in answers} == {2000}
