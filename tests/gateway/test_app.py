"""The process: starting, being found, stopping."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from gateway.app import SERVICES, App
from gramserve.errors import GramserveError, Reason, Unavailable, Unsafe
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.rpc.channel import open_channel
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1.slide_batch_service_pb2_grpc import SlideBatchServiceStub
from tests.gateway.stack import STATE, Stack, request
from tests.waiting import HANGS_S, until


async def test_every_service_is_found_by_reflection(stack: Stack) -> None:
    assert set(SERVICES) == {
        "gramserve.v1.SlideBatchService",
        "gramserve.v1.ImageService",
        "gramserve.v1.ModelService",
        "gramserve.v1.OperationsService",
    }
    ask = reflection_pb2_grpc.ServerReflectionStub(stack.channel).ServerReflectionInfo
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="gramserve.v1.SlideBatchService"),
    ]
    listed, described = [answer async for answer in ask(iter(requests))]
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {*SERVICES, "grpc.health.v1.Health"}
    files = [
        descriptor_pb2.FileDescriptorProto.FromString(data)
        for data in described.file_descriptor_response.file_descriptor_proto
    ]
    assert "gramserve/v1/slide_batch_service.proto" in {file.name for file in files}


async def test_a_method_that_does_not_exist_is_unimplemented(stack: Stack) -> None:
    call: Any = stack.channel.unary_unary("/gramserve.v1.SlideBatchService/DeleteSlideBatch")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call(b"")
    assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_I15_a_redis_that_evicts_is_refused(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis)
    await stack.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    with pytest.raises(Unsafe) as raised:
        await stack.start()
    assert raised.value.reason is Reason.UNSAFE_REDIS
    await stack.stop()


async def test_I15_a_redis_without_persistence_needs_a_word(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis)
    await stack.command("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(Unsafe):
        await App(stack.settings()).start()
    await stack.start(allow_volatile_redis=True)
    await stack.stop()


async def test_I15_a_store_that_cannot_be_written_is_refused(tmp_path: Path, redis: EmbeddedRedis) -> None:
    (tmp_path / "store").write_text("a file where a folder should be")
    with pytest.raises(Unsafe) as raised:
        await App(Stack(tmp_path, redis).settings()).start()
    assert raised.value.reason is Reason.UNSAFE_STORE


async def test_an_absent_redis_or_a_taken_port_is_said_at_the_start(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis)
    with pytest.raises(Unavailable):
        await App(stack.settings(redis_url="unix:///nowhere/redis.sock")).start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for setting in ({"listen": f"127.0.0.1:{port}"}, {"metrics_port": port}):
            with pytest.raises(GramserveError) as raised:
                await App(stack.settings(**setting)).start()
            assert raised.value.reason is Reason.INVALID_SETTINGS
    await stack.stop()


async def test_stopping_twice_is_stopping_once(stack: Stack) -> None:
    app = stack.app
    assert app is not None
    await app.stop()
    await app.stop()


class Process:
    """`python -m gateway` as an operator starts it."""

    def __init__(self, stack: Stack, port: int) -> None:
        self.environment = {
            **os.environ,
            "GRAMSERVE_STORE_URL": stack.store_url,
            "GRAMSERVE_REDIS_URL": stack.redis.url,
            "GRAMSERVE_GATEWAY_LISTEN": f"127.0.0.1:{port}",
            "GRAMSERVE_GATEWAY_METRICS_PORT": "0",
        }

    async def start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "gateway", env=self.environment, stderr=asyncio.subprocess.PIPE
        )


async def ready_port(process: asyncio.subprocess.Process) -> int:
    assert process.stderr is not None
    while line := await process.stderr.readline():
        event: dict[str, Any] = json.loads(line)
        if event["event"] == "ready":
            return int(event["port"])
    raise AssertionError("the gateway ended before it was ready")


async def test_I14_a_gateway_ends_with_0_after_sigterm(tmp_path: Path, redis: EmbeddedRedis) -> None:
    stack = Stack(tmp_path, redis)
    process = await Process(stack, 0).start()
    assert await ready_port(process) > 0
    process.send_signal(signal.SIGTERM)
    _, errors = await asyncio.wait_for(process.communicate(), HANGS_S)
    assert process.returncode == 0
    assert b"Traceback" not in errors
    await stack.stop()


async def test_a_gateway_that_cannot_start_says_why_in_one_line_and_ends_with_2(
    tmp_path: Path, redis: EmbeddedRedis
) -> None:
    stack = Stack(tmp_path, redis)
    process = Process(stack, 0)
    process.environment["GRAMSERVE_GATEWAY_LISTN"] = "x"
    started = await process.start()
    _, errors = await asyncio.wait_for(started.communicate(), HANGS_S)
    assert started.returncode == 2
    assert errors.decode().splitlines() == [
        "gateway: there is no setting GRAMSERVE_GATEWAY_LISTN; did you mean GRAMSERVE_GATEWAY_LISTEN?"
    ]
    await stack.stop()


async def test_I1_a_killed_gateway_loses_no_slide_and_its_watcher_no_event(
    tmp_path: Path, redis: EmbeddedRedis
) -> None:
    stack = Stack(tmp_path, redis)
    await stack.publish()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = Process(stack, port)
    first = await process.start()
    await ready_port(first)
    channel = open_channel(f"127.0.0.1:{port}")
    api: Any = SlideBatchServiceStub(channel)
    batch = await api.CreateSlideBatch(request(60))
    seen: list[s.WatchSlideBatchResponse] = []

    async def follow() -> None:
        """A client that resumes where it stopped."""
        while not (seen and seen[-1].slide_batch.state >= STATE.STATE_SUCCEEDED):
            after = seen[-1].sequence if seen else 0
            stream = api.WatchSlideBatch(s.WatchSlideBatchRequest(name=batch.name, after_sequence=after))
            try:
                while (response := await stream.read()) is not grpc.aio.EOF:
                    seen.append(response)
            except grpc.aio.AioRpcError as error:
                assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017
                await asyncio.sleep(0.05)

    following = asyncio.create_task(follow())
    for lease in await stack.worker.lease(20):
        await stack.worker.finish(lease)
    await until(lambda: len(seen) > 10)
    first.kill()
    await first.wait()
    await stack.worker.drain()
    second = await process.start()
    await ready_port(second)
    await asyncio.wait_for(following, HANGS_S)

    sequences = [response.sequence for response in seen]
    assert sequences == list(range(1, len(seen) + 1))
    assert seen[-1].slide_batch.completion_stats.succeeded_count == 60
    second.terminate()
    await second.communicate()
    await channel.close()
    await stack.stop()
