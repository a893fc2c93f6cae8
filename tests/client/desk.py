"""A real server with the batch and image services whose answers each test decides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from gramserve.client import Patience
from gramserve.metrics import Metrics
from gramserve.rpc.server import RpcServer
from gramserve.v1 import slide_batch_service_pb2_grpc
from gramserve.v1.slide_batch_pb2 import SlideBatch
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse
from gramserve.v1.slide_pb2 import Slide

IMPATIENT = Patience(total_s=5.0, call_s=2.0, first_wait_s=0.01, longest_wait_s=0.05)


@dataclass
class BatchDesk(slide_batch_service_pb2_grpc.SlideBatchServiceServicer):
    """Answers a create with `create`, each watch with the next of `watches`; keeps the requests."""

    create: Callable[[Any], SlideBatch] = lambda request: SlideBatch(name="laboratories/l/slideBatches/b")
    watches: list[Callable[[Any], AsyncIterator[WatchSlideBatchResponse]]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)

    async def CreateSlideBatch(self, request: Any, context: Any) -> SlideBatch:
        self.requests.append(request)
        return self.create(request)

    async def WatchSlideBatch(self, request: Any, context: Any) -> AsyncIterator[WatchSlideBatchResponse]:
        self.requests.append(request)
        async for event in self.watches.pop(0)(request):
            yield event


@asynccontextmanager
async def serving(*register: Callable[[Any], None]) -> AsyncIterator[str]:
    """The address of a server with these services."""
    server = RpcServer("127.0.0.1:0", register=register, names=[], metrics=Metrics())
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


def batch_desk(desk: BatchDesk) -> Callable[[Any], None]:
    """Registers `desk`."""
    return lambda server: slide_batch_service_pb2_grpc.add_SlideBatchServiceServicer_to_server(desk, server)


def slide_event(sequence: int, index: int, state: str, attempts: int = 1) -> WatchSlideBatchResponse:
    """A slide reached a state ("RUNNING")."""
    slide = Slide(index=index, state=Slide.State.Value(f"STATE_{state}"), attempt_count=attempts)
    return WatchSlideBatchResponse(sequence=sequence, slide=slide)


def batch_event(sequence: int, state: str, retry_round: int = 0) -> WatchSlideBatchResponse:
    """The batch reached a state."""
    batch = SlideBatch(state=SlideBatch.State.Value(f"STATE_{state}"), retry_round=retry_round)
    return WatchSlideBatchResponse(sequence=sequence, slide_batch=batch)
