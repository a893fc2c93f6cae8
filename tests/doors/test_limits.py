"""Every limit says its reason, over a real socket, and lets the next caller in when there is room again."""

from __future__ import annotations

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gramserve.access.principal import Principal, Role, acting_as
from gramserve.errors import Exhausted, Reason, Unavailable
from gramserve.metrics import Metrics
from gramserve.rpc.channel import open_channel
from gramserve.rpc.limits import CallLimits
from gramserve.rpc.server import RpcServer
from gramserve.rpc.status import from_rpc_error
from gramserve.v1 import image_service_pb2 as i
from gramserve.v1 import optimization_pb2, optimizer_service_pb2, optimizer_service_pb2_grpc
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1.upload_pb2 import UploadHeader
from tests.gateway.stack import LAB, STATE, Stack, refused, request
from tests.waiting import HANGS_S, until

NAME = "gramserve.v1.OptimizerService"
GET = optimizer_service_pb2.GetOptimizationRequest(name="x")
WATCH = optimizer_service_pb2.WatchOptimizationRequest(name="x")


class Desk(optimizer_service_pb2_grpc.OptimizerServiceServicer):
    """Keeps every call until the test lets it go."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.inside = 0

    async def GetOptimization(self, request: Any, context: Any) -> Any:
        self.inside += 1
        try:
            await self.open.wait()
        finally:
            self.inside -= 1
        return optimization_pb2.Optimization()

    async def WatchOptimization(self, request: Any, context: Any) -> Any:
        self.inside += 1
        try:
            yield optimization_pb2.Optimization()
            await self.open.wait()
        finally:
            self.inside -= 1

    async def UploadFile(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:
        count = 0
        async for _ in request_iterator:
            count += 1
        return optimizer_service_pb2.UploadFileResponse(size_bytes=count)


class Who(grpc.aio.ServerInterceptor):
    """Stands where access control stands: each call is whose the metadata `who` says."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)

        async def answer(request: Any, context: Any) -> Any:
            who = str(dict(context.invocation_metadata())["who"])
            with acting_as(Principal(who, frozenset(Role), frozenset())):
                return await handler.unary_unary(request, context)

        return grpc.unary_unary_rpc_method_handler(answer, handler.request_deserializer, handler.response_serializer)


class Rig:
    def __init__(self, desk: Desk, channel: grpc.aio.Channel, port: int) -> None:
        self.desk, self.channel, self.port = desk, channel, port
        self.stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)

    async def error(self, call: Any) -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        return from_rpc_error(raised.value)


async def rig(stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch | None = None, **limits: Any) -> Rig:
    desk = Desk()
    server = RpcServer(
        "127.0.0.1:0",
        register=[lambda one: optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(desk, one)],
        names=[NAME],
        metrics=Metrics(),
        limits=CallLimits(**limits),
    )
    port = await server.start()
    stack.push_async_callback(server.stop, 0)
    channel = await stack.enter_async_context(open_channel(f"127.0.0.1:{port}"))
    return Rig(desk, channel, port)


@pytest.fixture
async def exits() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_calls_over_the_limit_are_refused_until_one_has_ended(exits: AsyncExitStack) -> None:
    made = await rig(exits, calls=2)
    running = [asyncio.ensure_future(made.stub.GetOptimization(GET)) for _ in range(2)]
    await until(lambda: made.desk.inside == 2)
    error = await made.error(made.stub.GetOptimization(GET))
    assert (type(error), error.reason, error.retry_after_s) == (Exhausted, Reason.TOO_MANY_CALLS, 1.0)
    made.desk.open.set()
    await asyncio.gather(*running)
    await made.stub.GetOptimization(GET)


async def test_a_caller_who_hangs_up_gives_the_place_back(exits: AsyncExitStack) -> None:
    made = await rig(exits, calls=1, watches=1)
    for begin in (lambda: made.stub.GetOptimization(GET), lambda: made.stub.WatchOptimization(WATCH)):
        call = begin()
        await until(lambda: made.desk.inside == 1)
        call.cancel()
        await until(lambda: made.desk.inside == 0)
    made.desk.open.set()
    await made.stub.GetOptimization(GET)
    assert len([answer async for answer in made.stub.WatchOptimization(WATCH)]) == 1


async def test_one_caller_cannot_take_all_places(exits: AsyncExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers are principals where they are known, behind whatever address."""
    import gramserve.rpc.server as module

    real = module.CallLimiter

    class Behind(Who):
        """Who calls is set before the limits are looked at, as the server's own access control does it."""

        def __init__(self, limits: CallLimits) -> None:
            self._limiter = real(limits)

        async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
            return await super().intercept_service(
                lambda details: self._limiter.intercept_service(continuation, details), handler_call_details
            )

    monkeypatch.setattr(module, "CallLimiter", Behind)
    made = await rig(exits, calls=10, calls_per_caller=1)
    running = [asyncio.ensure_future(made.stub.GetOptimization(GET, metadata=[("who", "night-lis")]))]
    await until(lambda: made.desk.inside == 1)
    error = await made.error(made.stub.GetOptimization(GET, metadata=[("who", "night-lis")]))
    assert error.reason is Reason.TOO_MANY_CALLS
    running.append(asyncio.ensure_future(made.stub.GetOptimization(GET, metadata=[("who", "stat-lis")])))
    await until(lambda: made.desk.inside == 2)
    made.desk.open.set()
    await asyncio.gather(*running)


async def test_one_address_cannot_take_all_places_and_another_port_of_it_is_the_same(exits: AsyncExitStack) -> None:
    made = await rig(exits, calls=10, calls_per_caller=1)
    running = asyncio.ensure_future(made.stub.GetOptimization(GET))
    await until(lambda: made.desk.inside == 1)
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{made.port}", options=options) as other:
        error = await made.error(optimizer_service_pb2_grpc.OptimizerServiceStub(other).GetOptimization(GET))
    assert error.reason is Reason.TOO_MANY_CALLS
    made.desk.open.set()
    await running


async def test_watches_are_counted_apart_and_do_not_starve_calls(exits: AsyncExitStack) -> None:
    made = await rig(exits, calls=1, watches=2)
    watches = [made.stub.WatchOptimization(WATCH) for _ in range(2)]
    for watch in watches:
        await watch.read()
    error = await made.error(made.stub.WatchOptimization(WATCH).read())
    assert (type(error), error.reason) == (Exhausted, Reason.TOO_MANY_CALLS)
    call = asyncio.ensure_future(made.stub.GetOptimization(GET))
    await until(lambda: made.desk.inside == 3)
    made.desk.open.set()
    await call


async def test_a_full_server_still_tells_its_health_which_takes_no_place_of_others(exits: AsyncExitStack) -> None:
    made = await rig(exits, calls=1, watches=1)
    running = asyncio.ensure_future(made.stub.GetOptimization(GET))
    await made.stub.WatchOptimization(WATCH).read()
    health: Any = health_pb2_grpc.HealthStub(made.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    watched = health.Watch(health_pb2.HealthCheckRequest())  # strangers may do so, so it takes no place of others
    assert (await watched.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
    error = await made.error(health.Watch(health_pb2.HealthCheckRequest()).read())
    assert error.reason is Reason.TOO_MANY_CALLS
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(made.channel)
    asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
    error = await made.error(reflection.ServerReflectionInfo(iter(asked)).read())
    assert error.reason is Reason.TOO_MANY_CALLS
    made.desk.open.set()
    await running


async def test_calls_whose_message_never_comes_are_bounded_too(exits: AsyncExitStack) -> None:
    """No code of ours runs for them; gRPC counts them, and our client knows what that means."""
    made = await rig(exits, calls=1, watches=1)
    begun = made.channel.stream_unary(f"/{NAME}/GetOptimization")
    silent = [begun() for _ in range(4)]
    for call in silent:
        await call.wait_for_connection()
    error: Any = None

    async def full() -> bool:
        nonlocal error
        try:
            await made.stub.GetOptimization(GET, timeout=0.3)
        except grpc.aio.AioRpcError as raised:
            error = from_rpc_error(raised)
            return error.reason is Reason.TOO_MANY_CALLS
        return False

    made.desk.open.set()
    await until(full)
    assert isinstance(error, Exhausted)
    for call in silent:
        call.cancel()

    async def free() -> bool:
        try:
            return bool(await made.stub.GetOptimization(GET, timeout=1.0)) or True
        except grpc.aio.AioRpcError:
            return False

    await until(free)


# Streams that bring nothing.


def chunk(size: int) -> Any:
    return optimizer_service_pb2.UploadFileRequest(chunk=bytes(size))


async def test_a_stream_that_brings_nothing_is_ended_with_its_reason(exits: AsyncExitStack) -> None:
    made = await rig(exits, idle_s=0.2)
    silent = made.stub.UploadFile()
    await silent.write(chunk(10))
    error = await made.error(silent)
    assert (type(error), error.reason) == (Unavailable, Reason.STREAM_IDLE)
    assert error.retry_after_s


async def test_a_stream_that_drips_is_ended_too(exits: AsyncExitStack) -> None:
    """A byte now and then does not keep it open."""
    made = await rig(exits, idle_s=0.3)
    dripping = made.stub.UploadFile()

    async def drip() -> None:
        while not dripping.done():
            await dripping.write(chunk(1))
            await asyncio.sleep(0.05)

    dropped = asyncio.ensure_future(drip())
    error = await made.error(dripping)
    assert error.reason is Reason.STREAM_IDLE
    await asyncio.gather(dropped, return_exceptions=True)


async def test_a_slow_stream_that_brings_enough_is_heard_to_its_end(exits: AsyncExitStack) -> None:
    made = await rig(exits, idle_s=2.0)
    slow = made.stub.UploadFile()
    for _ in range(25):
        await slow.write(chunk(1024))
        await asyncio.sleep(0.1)
    await slow.done_writing()
    assert (await slow).size_bytes == 25


async def test_an_idle_reflection_stream_is_ended(exits: AsyncExitStack) -> None:
    made = await rig(exits, idle_s=0.2)
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(made.channel)
    error = await made.error(stub.ServerReflectionInfo().read())
    assert error.reason is Reason.STREAM_IDLE


@pytest.mark.parametrize(
    "said", [b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n"], ids=["silent", "half", "http1"]
)
async def test_a_connection_that_never_becomes_one_is_closed(exits: AsyncExitStack, said: bytes) -> None:
    made = await rig(exits)
    with socket.create_connection(("127.0.0.1", made.port)) as half_open:
        half_open.sendall(said)
        half_open.settimeout(HANGS_S)

        def closed() -> bool:
            try:
                while half_open.recv(4096):
                    pass
            except ConnectionResetError:
                return True
            return True

        assert await asyncio.to_thread(closed)


async def test_headers_beyond_the_limit_are_refused(exits: AsyncExitStack) -> None:
    made = await rig(exits)
    made.desk.open.set()
    options = [("grpc.max_metadata_size", 2**20), ("grpc.absolute_max_metadata_size", 2**20)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{made.port}", options=options) as channel:
        stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.GetOptimization(GET, metadata=[("padding", "x" * 40_000)])
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await stub.GetOptimization(GET, metadata=[("padding", "x" * 4_000)])


# The gateway's own.


async def test_an_idle_upload_goes_on_where_it_was(stack: Stack) -> None:
    await stack.restart(stream_idle_s=2.0)
    data = bytes(9 * 2**20)
    sha256 = hashlib.sha256(data).hexdigest()

    def first(offset: int) -> Iterator[i.UploadImageRequest]:
        yield i.UploadImageRequest(header=UploadHeader(parent=LAB, sha256=sha256, size_bytes=len(data), offset=offset))
        for start in range(offset, len(data), 2**20):
            yield i.UploadImageRequest(chunk=data[start : start + 2**20])

    stalled = stack.images.UploadImage()
    messages = list(first(0))
    for message in messages[:-1]:
        await stalled.write(message)
    # As long as a client likes to think about nine megabytes: not at a time longer than the limit.
    _, error = await refused(stalled)
    assert error.reason is Reason.STREAM_IDLE
    status = (await stack.images.GetImageUpload(i.GetImageUploadRequest(parent=LAB, sha256=sha256))).status
    assert status.next_offset == 8 * 2**20
    assert (await stack.images.UploadImage(first(status.next_offset))).size_bytes == len(data)


async def test_a_laboratory_has_a_quota_of_waiting_slides(stack: Stack) -> None:
    await stack.restart(laboratory_queued_slides=5)
    kept = await stack.create(3)
    code, error = await refused(stack.api.CreateSlideBatch(request(3)))
    assert (code, error.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.LABORATORY_QUOTA)
    assert error.retry_after_s
    assert "2 slides" in error.message
    await stack.create(2)
    # Neither another laboratory nor an urgent slide of this one is held up.
    await stack.create(5, parent="laboratories/south")
    await stack.create(1, priority=2)
    assert (await stack.get(kept.name)).state == STATE.STATE_QUEUED
    await stack.worker.drain()
    await stack.ended(kept.name)
    await stack.create(3)


async def test_a_laboratory_has_a_quota_of_open_batches(stack: Stack) -> None:
    await stack.restart(laboratory_open_batches=2)
    first, _ = [await stack.create(1) for _ in range(2)]
    assert (await refused(stack.api.CreateSlideBatch(request(1))))[1].reason is Reason.LABORATORY_QUOTA
    await stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=first.name))
    await stack.ended(first.name)
    await stack.create(1)


async def test_creates_at_the_same_moment_do_not_pass_the_quota_together(stack: Stack) -> None:
    await stack.restart(laboratory_open_batches=3)
    answers = await asyncio.gather(*(stack.api.CreateSlideBatch(request(1)) for _ in range(12)), return_exceptions=True)
    assert 1 <= sum(not isinstance(answer, BaseException) for answer in answers) <= 3
    await stack.worker.drain()


async def test_a_request_that_was_accepted_is_answered_whatever_the_quota(stack: Stack) -> None:
    """I3: what was promised does not need room again."""
    await stack.restart(laboratory_queued_slides=3)
    asked = request(3, request_id="3f0f8a52-6f0c-4c0b-8d4b-7d1a8c5e9d11")
    first = await stack.api.CreateSlideBatch(asked)
    assert (await stack.api.CreateSlideBatch(asked)).name == first.name


async def test_a_retry_needs_room_too(stack: Stack) -> None:
    failed = await stack.create(4)
    await stack.worker.drain(failing={0, 1, 2})
    await stack.ended(failed.name)
    await stack.restart(laboratory_queued_slides=4)
    await stack.create(2)
    again = s.RetrySlideBatchRequest(name=failed.name)
    _, error = await refused(stack.api.RetrySlideBatch(again))
    assert error.reason is Reason.LABORATORY_QUOTA
    await stack.worker.drain()
    assert (await stack.api.RetrySlideBatch(again)).state == STATE.STATE_QUEUED
