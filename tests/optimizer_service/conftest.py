"""A real optimizer service in this process, on a real Redis, a real store and a real socket."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gramserve.errors import GramserveError
from gramserve.queue import EmbeddedRedis, Queue, connect
from gramserve.rpc.channel import open_channel
from gramserve.rpc.status import from_rpc_error
from gramserve.store.objects import ObjectStore, open_store
from gramserve.v1 import model_pb2, optimization_pb2, optimizer_service_pb2, optimizer_service_pb2_grpc, upload_pb2
from optimizer_svc.app import LANE, App
from optimizer_svc.settings import OptimizerSettings
from tests.services import redis_server_of_a_session
from tests.waiting import HANGS_S, until

SCRIPTED = (sys.executable, "-m", "tests.optimizer_service.scripted_job")
State = optimization_pb2.Optimization.State
ENDED = {State.STATE_SUCCEEDED, State.STATE_FAILED, State.STATE_CANCELLED}
CHECKPOINT, DATA = b"a checkpoint", b"an archive"


@pytest.fixture(scope="session")
def redis_of_session() -> Iterator[EmbeddedRedis]:
    """One Redis for all tests of this folder."""
    with redis_server_of_a_session() as server:
        yield server


@dataclass
class Bench:
    """Where services run: their Redis, their store, their work folder."""

    redis: EmbeddedRedis
    folder: Path
    apps: list[App] = field(default_factory=list)

    @property
    def store(self) -> ObjectStore:
        """The store, opened."""
        return open_store(str(self.folder / "store"))

    def settings(self, **changes: Any) -> OptimizerSettings:
        """Fast polling, short leases."""
        values: dict[str, Any] = {
            "store_url": str(self.folder / "store"),
            "redis_url": self.redis.url,
            "work_folder": str(self.folder / "work"),
            "listen": "127.0.0.1:0",
            "metrics_port": -1,
            "lease_s": 3.0,
            "poll_s": 0.05,
            "reconcile_s": 0.5,
            "stop_grace_s": 5.0,
        }
        return OptimizerSettings(**(values | changes))

    @asynccontextmanager
    async def service(self, *, command: Sequence[str] = SCRIPTED, **changes: Any) -> AsyncIterator[Caller]:
        """A running service and a client of it."""
        app = App(self.settings(**changes), job_command=command)
        await app.start()
        try:
            async with open_channel(f"127.0.0.1:{app.port}") as channel:
                yield Caller(app, channel)
        finally:
            await app.stop()

    @asynccontextmanager
    async def queue(self) -> AsyncIterator[Queue]:
        """The queue, looked at from outside."""
        redis = connect(self.redis.url)
        queue = Queue(redis, LANE, lease_s=3.0)
        yield queue
        await queue.aclose()
        await redis.aclose()

    def runs(self, optimization: str) -> int:
        """How often the scripted job of an optimization began."""
        path = self.folder / "work" / optimization / "run" / "runs"
        return len(path.read_text()) if path.exists() else 0


class Caller:
    """A client that raises our errors."""

    def __init__(self, app: App, channel: grpc.aio.Channel) -> None:
        self.app = app
        self.channel = channel
        self.stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)

    async def upload_whole(self, data: bytes) -> Any:
        """Sends a file in large chunks."""
        return await self.upload(data, chunk_bytes=1 << 20)

    async def upload(self, data: bytes, *, chunk_bytes: int = 5, **header: Any) -> Any:
        """Sends a file in chunks."""
        first = {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data), **header}

        async def messages() -> AsyncIterator[Any]:
            yield optimizer_service_pb2.UploadFileRequest(header=upload_pb2.UploadHeader(**first))
            for start in range(first.get("offset", 0), len(data), chunk_bytes):
                yield optimizer_service_pb2.UploadFileRequest(chunk=data[start : start + chunk_bytes])

        return await answer(self.stub.UploadFile(messages()))

    async def request(self, scenario: str = "finishes", **changes: Any) -> Any:
        """A create request whose files are uploaded."""
        checkpoint, data = await self.upload(CHECKPOINT), await self.upload(DATA)
        optimization = optimization_pb2.Optimization(
            model="models/gram",
            architecture=scenario,
            labels=[
                model_pb2.Label(name="BACKGROUND", kind=model_pb2.Label.KIND_BACKGROUND),
                model_pb2.Label(
                    name="GNR",
                    kind=model_pb2.Label.KIND_ORGANISM,
                    gram=model_pb2.Label.GRAM_NEGATIVE,
                    morphology="rods",
                ),
            ],
        )
        optimization.checkpoint.sha256 = checkpoint.sha256
        optimization.data.sha256 = data.sha256
        values = {"request_id": str(uuid.uuid4()), "optimization": optimization, **changes}
        return optimizer_service_pb2.CreateOptimizationRequest(**values)

    async def create(self, scenario: str = "finishes", **changes: Any) -> Any:
        """A new optimization."""
        return await answer(self.stub.CreateOptimization(await self.request(scenario, **changes)))

    async def get(self, name: str) -> Any:
        """The optimization now."""
        return await answer(self.stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name=name)))

    async def cancel(self, name: str) -> Any:
        """Asks for its cancellation."""
        return await answer(self.stub.CancelOptimization(optimizer_service_pb2.CancelOptimizationRequest(name=name)))

    def watch(self, name: str) -> Any:
        """The stream of its changes."""
        return self.stub.WatchOptimization(optimizer_service_pb2.WatchOptimizationRequest(name=name))

    async def ended(self, name: str, timeout_s: float = HANGS_S) -> Any:
        """The optimization when it has ended."""
        return await self.when(name, lambda now: now.state in ENDED, timeout_s)

    async def when(self, name: str, reached: Callable[[Any], bool], timeout_s: float = HANGS_S) -> Any:
        """The optimization when `reached` says so."""

        async def look() -> Any:
            now = await self.get(name)
            return now if reached(now) else None

        return await until(look, timeout_s, what=f"{name} got there")

    async def started(self, name: str) -> Any:
        """The optimization when its job runs."""
        return await self.when(name, lambda now: now.progress.stage == "baseline")


async def answer(call: Any) -> Any:
    """The response of a call, or the error that it stands for."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None


async def refused(call: Any) -> GramserveError:
    """The error that a call must end with."""
    with pytest.raises(GramserveError) as caught:
        await call
    return caught.value


@pytest.fixture
async def bench(redis_of_session: EmbeddedRedis, tmp_path: Path) -> Bench:
    """An empty Redis and an empty store."""
    redis = connect(redis_of_session.url)
    await redis.flushall()
    await redis.aclose()
    return Bench(redis_of_session, tmp_path)


@pytest.fixture
async def caller(bench: Bench) -> AsyncIterator[Caller]:
    """A client of a running service."""
    async with bench.service() as caller:
        yield caller


def id_of(name: str) -> str:
    """The id in a resource name."""
    return name.removeprefix("optimizations/")


async def gone(pid: int) -> None:
    """Waits until no process has this id, or only its corpse."""

    def look() -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        except OSError:
            return True

    await until(look, 10.0, what=f"process {pid} ended")
    await asyncio.sleep(0)
