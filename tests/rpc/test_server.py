"""The server as every service runs it: health, reflection, cancellation, ports, graceful stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gramserve.errors import Unsafe
from gramserve.metrics import Metrics
from gramserve.rpc import options
from gramserve.rpc.server import RpcServer
from gramserve.v1 import optimizer_service_pb2
from tests.rpc.conftest import GET, NAME, WATCH, Rig
from tests.waiting import HANGS_S, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def _health(rig: Rig, service: str = "") -> Any:
    stub: Any = health_pb2_grpc.HealthStub(rig.channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=service))).status


@pytest.mark.parametrize("service", ["", NAME])
async def test_health_follows_what_the_service_says_of_itself(rig: Rig, service: str) -> None:
    assert await _health(rig, service) == SERVING
    await rig.server.set_serving(False)
    assert await _health(rig, service) == NOT_SERVING
    await rig.server.set_serving(True)
    assert await _health(rig, service) == SERVING


async def test_a_server_that_listens_is_not_yet_SERVING() -> None:
    server = RpcServer("127.0.0.1:0", register=[], names=[], metrics=Metrics())
    port = await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        assert (await stub.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
    await server.stop(0)


async def test_health_of_a_service_that_is_not_there_is_NOT_FOUND(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _health(rig, "gramserve.v1.Nothing")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_I14_a_stopping_server_says_NOT_SERVING_to_watchers_before_it_closes(rig: Rig) -> None:
    stub: Any = health_pb2_grpc.HealthStub(rig.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == SERVING
    stopping = asyncio.create_task(rig.server.stop(10))
    assert (await watch.read()).status == NOT_SERVING
    watch.cancel()
    await stopping


async def test_I14_a_running_call_is_finished_before_the_server_closes(rig: Rig) -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def slow(_request: Any) -> Any:
        from gramserve.v1 import optimization_pb2

        started.set()
        await go.wait()
        return optimization_pb2.Optimization(name="finished")

    rig.desk.unary = slow
    call = asyncio.ensure_future(rig.get())
    await started.wait()
    stopping = asyncio.create_task(rig.server.stop(30))
    await until(lambda: _refuses(rig))
    go.set()
    assert (await call).name == "finished"
    await stopping


async def _refuses(rig: Rig) -> bool:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{rig.server.port}") as channel:
        try:
            call: Any = channel.unary_unary(GET)
            await call(b"", timeout=1)
        except grpc.aio.AioRpcError as error:
            return error.code() is grpc.StatusCode.UNAVAILABLE
        return False


async def test_reflection_lists_and_describes_the_services(rig: Rig) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(rig.channel)

    async def ask() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME)

    listed, described = [answer async for answer in stub.ServerReflectionInfo(ask())]
    names = {service.name for service in listed.list_services_response.service}
    assert {NAME, "grpc.health.v1.Health"} <= names
    assert described.file_descriptor_response.file_descriptor_proto


async def test_a_caller_that_hangs_up_cancels_its_call_on_the_server(rig: Rig) -> None:
    started = asyncio.Event()

    async def forever(_request: Any) -> Any:
        started.set()
        await asyncio.Event().wait()

    rig.desk.unary = forever
    call = asyncio.ensure_future(rig.get())
    await started.wait()
    call.cancel()
    await asyncio.wait_for(rig.desk.cancelled.wait(), HANGS_S)
    await until(lambda: rig.counted(GET, "CANCELLED") == 1)


async def test_a_reader_that_hangs_up_cancels_its_stream_on_the_server(rig: Rig) -> None:
    async def forever(_request: Any) -> AsyncIterator[Any]:
        yield optimizer_service_pb2.WatchOptimizationResponse()
        await asyncio.Event().wait()

    rig.desk.stream = forever
    call = rig.watch()
    await call.read()
    call.cancel()
    await asyncio.wait_for(rig.desk.cancelled.wait(), HANGS_S)
    await until(lambda: rig.counted(WATCH, "CANCELLED") == 1)


async def test_a_slow_reader_holds_the_stream_back_instead_of_filling_memory(rig: Rig) -> None:
    sent = 0

    async def many(_request: Any) -> AsyncIterator[Any]:
        nonlocal sent
        for _ in range(200):
            response = optimizer_service_pb2.WatchOptimizationResponse()
            response.optimization.name = "x" * 200_000
            yield response
            sent += 1

    rig.desk.stream = many
    call = rig.watch()
    await call.read()
    received = 1
    assert sent < 200
    while await call.read() is not grpc.aio.EOF:
        received += 1
    assert received == 200
    assert rig.counted(WATCH, "OK") == 1


async def test_a_taken_port_is_refused_by_name(rig: Rig) -> None:
    second = RpcServer(f"127.0.0.1:{rig.server.port}", register=[], names=[], metrics=Metrics())
    with pytest.raises(Unsafe, match="is the port taken"):
        await second.start()
    await second.stop(0)


async def test_an_address_that_is_none_is_refused_by_name() -> None:
    server = RpcServer("localhost:none", register=[], names=[], metrics=Metrics())
    with pytest.raises(Unsafe, match="cannot listen"):
        await server.start()
    await server.stop(0)


def test_client_and_server_agree_on_keepalive() -> None:
    client, server = dict(options.CLIENT), dict(options.SERVER)
    assert client["grpc.keepalive_time_ms"] > server["grpc.http2.min_ping_interval_without_data_ms"]
    assert client["grpc.max_receive_message_length"] == server["grpc.max_receive_message_length"]
    assert server["grpc.max_receive_message_length"] > options.MAX_MESSAGE_BYTES
