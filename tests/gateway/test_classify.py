"""ClassifySlide: one slide, waited for within the deadline of the call, and as durable as every batch."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from gateway.classify import DEFAULT_S
from gramserve.errors import Conflict, DeadlineExceeded, InvalidInput, Unavailable
from gramserve.queue import Lease
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1.slide_pb2 import Slide
from tests.gateway.stack import LAB, STATE, Stack, new_request_id, refused
from tests.services import kill_9
from tests.waiting import HANGS_S, until

PIXELS = b"encoded pixels"


def one(slide_id: str = "S-1", **fields: Any) -> s.ClassifySlideRequest:
    source = b.SlideSource(slide_id=slide_id, images=[b.Image(content=PIXELS)])
    return s.ClassifySlideRequest(**{"parent": LAB, "slide": source, "model": "models/gram", **fields})


def ask(stack: Stack, request: s.ClassifySlideRequest, timeout_s: float = HANGS_S) -> asyncio.Task[Slide]:
    async def call() -> Slide:
        slide: Slide = await stack.api.ClassifySlide(request, timeout=timeout_s)
        return slide

    return asyncio.create_task(call())


async def leased(stack: Stack) -> Lease:
    """The slide, as soon as it can be leased."""
    leases = await until(lambda: stack.worker.lease(1))
    assert leases is not None
    return leases[0]


def resource(lease: Lease) -> str:
    laboratory, _, batch = lease.batch.partition("/")
    return f"laboratories/{laboratory}/slideBatches/{batch}"


async def test_the_answer_is_the_slide_with_its_call_from_a_durable_stat_batch(stack: Stack) -> None:
    await stack.create(50)
    call = ask(stack, one(annotations={"run": "7"}))
    await until(lambda: _stat_waits(stack))
    lease = await leased(stack)
    assert lease.stat, "it overtakes"
    await stack.worker.finish(lease)
    slide = await call
    assert (slide.state, slide.slide_id, slide.index) == (Slide.STATE_SUCCEEDED, "S-1", 0)
    assert slide.call.findings[0].label == "GNR"
    assert slide.name == f"{resource(lease)}/slides/0"
    batch = await stack.ended(resource(lease))
    assert (batch.state, batch.priority) == (STATE.STATE_SUCCEEDED, b.SlideBatch.PRIORITY_STAT)
    assert batch.annotations == {"run": "7"}
    assert batch.HasField("deliver_by")


async def _stat_waits(stack: Stack) -> bool:
    return (await stack.queue.depth()).ready_stat == 1


async def test_a_slide_that_fails_is_an_answer_too(stack: Stack) -> None:
    call = ask(stack, one())
    await stack.worker.finish(await leased(stack), failed=True)
    slide = await call
    assert slide.state == Slide.STATE_FAILED
    assert slide.error.message == "the image is damaged"


async def test_I3_repeats_and_concurrent_calls_with_one_request_id_are_one_slide(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    calls = [ask(stack, request, timeout_s) for timeout_s in (HANGS_S - 2, HANGS_S - 1, HANGS_S)]
    await stack.worker.finish(await leased(stack))
    answers = [await call for call in calls]
    again = await ask(stack, request)
    assert all(answer == again for answer in answers)
    assert len(stack.worker.ran) == 1
    assert await stack.worker.lease(1) == []


async def test_I3_another_payload_under_the_same_request_id_is_refused(stack: Stack) -> None:
    request_id = new_request_id()
    call = ask(stack, one(request_id=request_id))
    await stack.worker.finish(await leased(stack))
    await call
    code, error = await refused(ask(stack, one("S-2", request_id=request_id)))
    assert (code, error.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_the_deadline_names_the_batch_from_which_the_result_can_still_be_read(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    call = ask(stack, request, DEFAULT_S / 3)
    lease = await leased(stack)
    stack.deadline_passes(DEFAULT_S / 3)
    code, error = await refused(call)
    assert code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert isinstance(error, DeadlineExceeded)
    assert (error.reason, error.metadata) == ("EXPIRED", {"slide_batch": resource(lease)})
    # It had begun: its result counts, and a repeat gets it.
    await stack.worker.finish(lease)
    assert (await ask(stack, request)).state == Slide.STATE_SUCCEEDED


async def test_I12_a_slide_that_has_not_begun_by_the_deadline_never_begins(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    call = ask(stack, request)
    await until(lambda: _stat_waits(stack))
    stack.deadline_passes()
    code, error = await refused(call)
    assert (code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED")
    stack.clock.ahead_s = 2 * HANGS_S
    batch = await stack.ended(error.metadata["slide_batch"])
    assert batch.state == STATE.STATE_EXPIRED
    assert await stack.worker.lease(1) == []
    code, error = await refused(ask(stack, request))
    assert (code, error.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "EXPIRED")


async def test_a_cancelled_call_cancels_a_slide_that_has_not_begun(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    call = stack.api.ClassifySlide(request, timeout=HANGS_S)
    await until(lambda: _stat_waits(stack))
    call.cancel()
    batch = await until(lambda: _the_batch_ended(stack))
    assert batch.state == STATE.STATE_CANCELLED
    assert await stack.worker.lease(1) == []
    code, error = await refused(ask(stack, request))
    assert (code, error.reason) == (grpc.StatusCode.ABORTED, "CANCELLED")
    assert isinstance(error, Conflict)


async def test_a_cancelled_call_lets_a_slide_finish_that_runs(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    call = stack.api.ClassifySlide(request, timeout=HANGS_S)
    lease = await leased(stack)
    call.cancel()
    await until(lambda: _state(stack, resource(lease), STATE.STATE_CANCELLING))
    assert await stack.worker.finish(lease)
    assert (await ask(stack, request)).state == Slide.STATE_SUCCEEDED


async def test_a_cancelled_call_does_not_touch_a_slide_that_another_call_waits_for(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    call = stack.api.ClassifySlide(request, timeout=HANGS_S)
    await until(lambda: _stat_waits(stack))
    other = ask(stack, request)
    await until(lambda: _asking(stack) == 2)
    call.cancel()
    await until(lambda: _asking(stack) == 1)
    await stack.worker.finish(await leased(stack))
    assert (await other).state == Slide.STATE_SUCCEEDED


def _asking(stack: Stack) -> int:
    assert stack.app is not None
    assert stack.app._running is not None
    return stack.app._running._classifier._asking.total()


async def _the_batch_ended(stack: Stack) -> b.SlideBatch | None:
    batches = (await stack.api.ListSlideBatches(s.ListSlideBatchesRequest(parent=LAB))).slide_batches
    return next((batch for batch in batches if batch.state >= STATE.STATE_SUCCEEDED), None)


async def _state(stack: Stack, name: str, state: int) -> bool:
    return (await stack.get(name)).state == state


async def test_I1_I14_a_gateway_that_stops_ends_the_call_and_not_the_slide(stack: Stack) -> None:
    await stack.restart(shutdown_grace_s=10.0)
    request = one(request_id=new_request_id())
    call = ask(stack, request)
    await until(lambda: _stat_waits(stack))
    assert stack.app is not None
    await stack.app.stop()
    code, error = await refused(call)
    assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "SHUTTING_DOWN")
    assert isinstance(error, Unavailable)
    await stack.restart()
    again = ask(stack, request)
    await stack.worker.finish(await leased(stack))
    assert (await again).state == Slide.STATE_SUCCEEDED


async def test_I1_a_redis_that_dies_costs_the_call_and_not_the_slide(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    call = ask(stack, request)
    await until(lambda: _stat_waits(stack))
    await kill_9(stack.redis)
    code, error = await refused(call)
    assert (code, error.reason) == (grpc.StatusCode.UNAVAILABLE, "QUEUE_UNAVAILABLE")
    await stack.redis.start()

    async def once_more() -> Slide | None:
        try:
            return await ask(stack, request)
        except grpc.aio.AioRpcError:
            return None

    async with stack.worker.working():
        slide = await until(once_more)
    assert slide is not None
    assert slide.state == Slide.STATE_SUCCEEDED


async def test_a_flushed_redis_is_filled_again_and_the_call_still_gets_its_answer(stack: Stack) -> None:
    call = ask(stack, one())
    await until(lambda: _stat_waits(stack))
    await stack.flush()
    await stack.worker.finish(await leased(stack))
    assert (await call).state == Slide.STATE_SUCCEEDED


async def test_the_answer_of_a_batch_that_redis_forgot_comes_from_the_store(stack: Stack) -> None:
    request = one(request_id=new_request_id())
    call = ask(stack, request)
    lease = await leased(stack)
    await stack.worker.finish(lease)
    first = await call
    await stack.ended(resource(lease))
    await stack.flush()
    assert await ask(stack, request) == first


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"slide": b.SlideSource(images=[b.Image(content=PIXELS)])}, "slide.slide_id"),
        ({"slide": b.SlideSource(slide_id="S-1")}, "slide.images"),
        ({"parent": "north"}, "parent"),
        ({"annotations": {"": "x"}}, "annotations"),
        ({"request_id": "7"}, "request_id"),
    ],
)
async def test_wrong_fields_are_named_as_they_were_sent(stack: Stack, wrong: dict[str, Any], field: str) -> None:
    code, error = await refused(ask(stack, one(**wrong)))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert isinstance(error, InvalidInput)
    assert [name for name, _ in error.violations] == [field]
    assert error.message.startswith(field)
