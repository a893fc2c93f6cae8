"""The same request gives the same batch, and a gateway that dies on the way loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from gateway.submission import identify
from gramserve.errors import Reason
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.store.batches import BatchStore
from gramserve.store.records import BatchRecord, ImageRecord, Priority, RequestRecord, SlideRecord
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.stack import LAB, STATE, Stack, new_request_id, refused, request


async def test_I3_fifty_creates_at_once_with_one_request_id_make_one_batch(stack: Stack) -> None:
    asked = request(20, request_id=new_request_id())
    answers = await asyncio.gather(*(stack.api.CreateSlideBatch(asked) for _ in range(50)))

    assert len({answer.name for answer in answers}) == 1
    assert (await stack.queue.depth()).ready_routine == 20
    assert len(await stack.objects.folders("batches/north")) == 1


async def test_I3_two_gateways_make_one_batch_of_one_request_id(stack: Stack) -> None:
    other = Stack(stack.folder, stack.redis)
    await other.start()
    try:
        asked = request(1500, request_id=new_request_id())
        answers = await asyncio.gather(*(api.CreateSlideBatch(asked) for api in [stack.api, other.api] * 10))
        assert len({answer.name for answer in answers}) == 1
        assert (await stack.queue.depth()).ready_routine == 1500
        assert len(await stack.objects.folders("batches/north")) == 1, "both chose its id"
        assert len([info async for info in stack.objects.list("open/north")]) == 1
    finally:
        await other.stop()


async def test_I3_a_repeat_after_the_end_returns_the_ended_batch(stack: Stack) -> None:
    asked = request(2, request_id=new_request_id().upper())
    first = await stack.api.CreateSlideBatch(asked)
    await stack.run(first.name)
    again = await stack.api.CreateSlideBatch(asked)
    assert (again.name, again.state) == (first.name, STATE.STATE_SUCCEEDED)
    assert (await stack.queue.depth()).ready_routine == 0


async def test_I3_another_payload_under_a_request_id_is_refused(stack: Stack) -> None:
    request_id = new_request_id()
    await stack.create(2, request_id=request_id)
    for changed in ({"count": 3}, {"count": 2, "model": "models/gram/versions/1"}, {"count": 2, "batch_id": "mine"}):
        code, error = await refused(stack.api.CreateSlideBatch(request(request_id=request_id, **changed)))
        assert (code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, Reason.REQUEST_ID_REUSED)


async def test_I3_a_payload_that_is_refused_at_the_last_moment_leaves_nothing(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gateways get one request_id with two payloads at once; the other one is faster."""
    other = Stack(stack.folder, stack.redis)
    await other.start()
    create_request, faster = BatchStore.create_request, request(3, request_id=new_request_id())

    async def behind_the_other(
        self: BatchStore, laboratory: str, request_id: str, record: RequestRecord
    ) -> RequestRecord:
        monkeypatch.setattr(BatchStore, "create_request", create_request)
        won.append((await other.api.CreateSlideBatch(faster)).name)
        return await create_request(self, laboratory, request_id, record)

    won: list[str] = []
    monkeypatch.setattr(BatchStore, "create_request", behind_the_other)
    try:
        code, error = await refused(stack.api.CreateSlideBatch(request(1500, request_id=faster.request_id)))
        assert (code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, Reason.REQUEST_ID_REUSED)
        assert [f"{LAB}/slideBatches/{batch}" for batch in await stack.objects.folders("batches/north")] == won
        assert len([info async for info in stack.objects.list("open/north")]) == 1
    finally:
        await other.stop()


async def test_I3_a_batch_id_belongs_to_the_request_that_took_it(stack: Stack) -> None:
    first = await stack.create(2, batch_id="night-1", request_id=new_request_id())
    for other in (
        request(2, batch_id="night-1", request_id=new_request_id()),
        request(2, batch_id="night-1"),
        request(5, batch_id="night-1"),
    ):
        code, error = await refused(stack.api.CreateSlideBatch(other))
        assert (code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, Reason.BATCH_ID_TAKEN)
    assert (await stack.get(first.name)).completion_stats.total_count == 2


async def test_I3_a_repeat_without_request_id_is_known_by_its_batch_id(stack: Stack) -> None:
    first = await stack.create(2, batch_id="night-1")
    again = await stack.create(2, batch_id="night-1")
    assert again.name == first.name
    assert (await stack.queue.depth()).ready_routine == 2


async def test_I3_of_two_different_creates_for_one_batch_id_one_wins_whole(stack: Stack) -> None:
    asked = [request(count, batch_id="night-1") for count in (10, 1400)]
    answers = await asyncio.gather(
        *(stack.api.CreateSlideBatch(one) for one in asked for _ in range(3)), return_exceptions=True
    )
    won = [answer for answer in answers if not isinstance(answer, BaseException)]
    assert len(won) == 3
    count = won[0].completion_stats.total_count
    assert len([slide async for slide in stack.batches.slides("north", "night-1")]) == count
    assert (await stack.queue.depth()).ready_routine == count


Step = Callable[[Stack, BatchRecord, list[SlideRecord]], Awaitable[object]]


def steps() -> dict[str, Step]:
    """What a create does, one durable step after the other; the last ones are those of the queue."""

    async def open_queue(stack: Stack, record: BatchRecord, _: list[SlideRecord]) -> None:
        await stack.queue.open(
            f"north/{record.batch}",
            round=0,
            total=record.slide_count,
            priority_stat=False,
            due_s=record.create_time + 3600,
            version=record.model_version,
            digest=record.model_digest,
            fresh=True,
        )

    return {
        "the request": lambda stack, record, _: stack.batches.create_request(
            "north", record.request_id, RequestRecord(record.batch, record.fingerprint)
        ),
        "half the manifest": lambda stack, record, slides: stack.batches.write_manifest(
            "north", record.batch, slides[:1000]
        ),
        "the manifest": lambda stack, record, slides: stack.batches.write_manifest("north", record.batch, slides),
        "the batch": lambda stack, record, _: stack.batches.create_batch(record),
        "the queue's batch": open_queue,
        "half the queue": lambda stack, record, _: stack.queue.submit(f"north/{record.batch}", range(700), more=True),
        "the queue": lambda stack, record, _: stack.queue.submit(f"north/{record.batch}", range(1200)),
    }


@pytest.mark.parametrize("last", steps())
async def test_I1_a_gateway_may_die_after(tmp_path: Path, redis: EmbeddedRedis, last: str) -> None:
    stack = Stack(tmp_path, redis, lease_s=5.0)
    _, digest = await stack.publish()
    asked = request(1200, request_id=new_request_id())
    record = BatchRecord(
        laboratory="north",
        batch="made-before",
        request_id=asked.request_id,
        fingerprint=identify(asked).fingerprint,
        model="models/gram",
        model_version="models/gram/versions/1",
        model_digest=digest,
        slide_count=1200,
        priority=Priority.ROUTINE,
        deliver_by=None,
        max_failed_ratio=0.0,
        create_time=stack.clock(),
        annotations={},
    )
    slides = [
        SlideRecord(index, source.slide_id, (ImageRecord(uri=source.images[0].uri),))
        for index, source in enumerate(asked.slide_batch.slides)
    ]
    for name, step in steps().items():
        await step(stack, record, slides)
        if name == last:
            break
    committed = list(steps()).index(last) >= list(steps()).index("the batch")
    await stack.start()
    try:
        if not committed:  # nothing was answered, nothing is there; the client asks again
            code, _ = await refused(stack.get(f"{LAB}/slideBatches/made-before"))
            assert code is grpc.StatusCode.NOT_FOUND
            answer = await stack.api.CreateSlideBatch(asked)
            assert answer.name == f"{LAB}/slideBatches/made-before"
        async with stack.worker.working():
            ended = await stack.ended(f"{LAB}/slideBatches/made-before")
        assert ended.state == STATE.STATE_SUCCEEDED
        assert ended.completion_stats.succeeded_count == 1200
        assert await stack.batches.recorded("north", "made-before", 0) == list(range(1200))
    finally:
        await stack.stop()


async def test_I3_a_retry_with_one_request_id_is_done_once(stack: Stack) -> None:
    batch = await stack.create(3)
    await stack.run(batch.name, failing=(1,))
    asked = s.RetrySlideBatchRequest(name=batch.name, request_id=new_request_id())
    answers = await asyncio.gather(*(stack.api.RetrySlideBatch(asked) for _ in range(10)))
    assert {answer.retry_round for answer in answers} == {1}
    await stack.run(batch.name)
    again = await stack.api.RetrySlideBatch(asked)
    assert (again.retry_round, again.state) == (1, STATE.STATE_SUCCEEDED)
