"""A real server with one of our services whose answers each test decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import pytest

from gramserve.metrics import Metrics
from gramserve.rpc.channel import open_channel
from gramserve.rpc.server import RpcServer
from gramserve.v1 import optimization_pb2, optimizer_service_pb2, optimizer_service_pb2_grpc

NAME = "gramserve.v1.OptimizerService"
GET = f"/{NAME}/GetOptimization"
WATCH = f"/{NAME}/WatchOptimization"
UPLOAD = f"/{NAME}/UploadFile"


async def _answer(_request: Any) -> optimization_pb2.Optimization:
    return optimization_pb2.Optimization(name="optimizations/answered")


@dataclass
class Desk(optimizer_service_pb2_grpc.OptimizerServiceServicer):
    """Answers each kind of RPC with what the test put into it."""

    unary: Callable[[Any], Awaitable[Any]] = _answer
    stream: Callable[[Any], AsyncIterator[Any]] | None = None
    upload: Callable[[Any], Awaitable[Any]] | None = None
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def GetOptimization(self, request: Any, context: Any) -> Any:
        try:
            return await self.unary(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def CreateOptimization(self, request: Any, context: Any) -> Any:
        return await self.unary(request)

    async def GetFileUpload(self, request: Any, context: Any) -> Any:
        return await self.unary(request)

    async def ListOptimizations(self, request: Any, context: Any) -> Any:
        return await self.unary(request)

    async def CancelOptimization(self, request: Any, context: Any) -> Any:
        return await self.unary(request)

    async def WatchOptimization(self, request: Any, context: Any) -> Any:
        assert self.stream is not None
        try:
            async for response in self.stream(request):
                yield response
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def UploadFile(self, request_iterator: Any, context: Any) -> Any:
        assert self.upload is not None
        return await self.upload(request_iterator)


@dataclass
class Rig:
    """The server, a client of it and what it counted."""

    desk: Desk
    server: RpcServer
    metrics: Metrics
    channel: grpc.aio.Channel
    stub: optimizer_service_pb2_grpc.OptimizerServiceAsyncStub

    async def get(self) -> Any:
        """The unary RPC."""
        return await self.stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name="x"))

    def watch(self) -> Any:
        """The streaming RPC."""
        return self.stub.WatchOptimization(optimizer_service_pb2.WatchOptimizationRequest(name="x"))

    def counted(self, method: str, code: str) -> float:
        """How many RPCs of `method` ended with `code`."""
        return (
            self.metrics.registry.get_sample_value("gramserve_rpc_requests_total", {"method": method, "code": code})
            or 0.0
        )


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """A serving server and a channel to it."""
    desk, metrics = Desk(), Metrics()
    server = RpcServer(
        "127.0.0.1:0",
        register=[lambda s: optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(desk, s)],
        names=[NAME],
        metrics=metrics,
    )
    port = await server.start()
    await server.set_serving(True)
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield Rig(desk, server, metrics, channel, optimizer_service_pb2_grpc.OptimizerServiceStub(channel))
    await server.stop(0)
