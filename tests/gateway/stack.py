"""What the gateway's tests stand on."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Collection
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gateway.app import App
from gateway.settings import GatewaySettings
from gramserve.errors import GramserveError
from gramserve.queue import Lease, Queue, connect
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.rpc.channel import open_channel
from gramserve.rpc.status import from_rpc_error
from gramserve.store.batches import BatchStore
from gramserve.store.manifest import (
    Aggregation,
    ArtifactDraft,
    Calibration,
    EngineSettings,
    Label,
    Preprocessing,
    Source,
)
from gramserve.store.objects import open_store
from gramserve.store.records import ErrorRecord, OutcomeRecord, SlideState
from gramserve.store.registry import Registry
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1.image_service_pb2_grpc import ImageServiceStub
from gramserve.v1.model_service_pb2_grpc import ModelServiceStub
from gramserve.v1.slide_batch_service_pb2_grpc import SlideBatchServiceStub
from tests.waiting import HANGS_S, until

LAB = "laboratories/north"
STATE = b.SlideBatch.State
CALL = {
    "outcome": "ORGANISMS_SEEN",
    "findings": [
        {
            "label": "GNR",
            "probability": 0.875,
            "tile_count": 2,
            "evidence": [{"image_index": 0, "x": 1, "y": 2, "width": 224, "height": 224, "probability": 0.75}],
        }
    ],
    "tile_count": 9,
    "review_reasons": [],
    "unassessable_reason": "",
}


class Clock:
    """Unix time that a test can move ahead."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


class Stack:
    """One gateway on one Redis and one store, clients for it, and what a test needs of the things behind it."""

    def __init__(self, folder: Path, redis: EmbeddedRedis, *, store_url: str = "", **settings: Any) -> None:
        self.folder = folder
        self.redis = redis
        self.clock = Clock()
        self.store_url = store_url or str(folder / "store")
        self.objects = open_store(self.store_url)
        self.batches = BatchStore(self.objects)
        self.registry = Registry(self.objects)
        self._settings = settings
        self._redis_client = connect(redis.url)
        self.queue = Queue(self._redis_client, "slides", lease_s=settings.get("lease_s", 30.0))
        self.worker = Worker(self)
        self.app: App | None = None

    def settings(self, **changes: Any) -> GatewaySettings:
        defaults: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "metrics_port": -1,
            "store_url": self.store_url,
            "redis_url": self.redis.url,
            "reconcile_interval_s": 0.02,
            "finish_interval_s": 0.02,
            "shutdown_grace_s": 0.2,
            "manifest_roots": (str(self.folder / "manifests"),),
        }
        return GatewaySettings(**{**defaults, **self._settings, **changes})

    async def publish(self, model: str = "gram", *, promote: bool = True) -> tuple[int, str]:
        version, digest = await self.registry.publish(model, {"model.onnx": b"not run here"}, draft())
        if promote:
            await self.registry.promote(model, version)
        return version, digest

    async def start(self, **changes: Any) -> None:
        app = App(self.settings(**changes), clock=self.clock)
        port = await app.start()
        self.app = app
        self.channel = open_channel(f"127.0.0.1:{port}")
        self.api: Any = SlideBatchServiceStub(self.channel)
        self.images: Any = ImageServiceStub(self.channel)
        self.models: Any = ModelServiceStub(self.channel)

    async def stop_gateway(self) -> None:
        if self.app is not None:
            await self.channel.close()
            await self.app.stop()
            self.app = None

    async def restart(self, **changes: Any) -> None:
        await self.stop_gateway()
        await self.start(**changes)

    async def stop(self) -> None:
        await self.stop_gateway()
        await self.queue.aclose()
        await self._redis_client.aclose()

    async def flush(self) -> None:
        await self._redis_client.flushall()

    async def command(self, *words: str) -> Any:
        """Whatever redis-cli could say."""
        client: Any = self._redis_client
        return await client.execute_command(*words)

    def counted(self, metric: str, **labels: str) -> float:
        """The value of a counter of the gateway."""
        assert self.app is not None
        return self.app.metrics.registry.get_sample_value(f"gramserve_{metric}_total", labels) or 0.0

    async def lapse(self, lease: Lease) -> None:
        """As if the time of `lease` were over."""
        await self.command("ZADD", "{gs:slides}:leased", "XX", "1", lease.entry)

    async def create(self, count: int = 3, **fields: Any) -> b.SlideBatch:
        batch: b.SlideBatch = await self.api.CreateSlideBatch(request(count, **fields))
        return batch

    def deadline_passes(self, after_s: float = HANGS_S) -> None:
        """Calls that wait for a slide, later ones included, see a clock that is ahead by so much."""
        assert self.app is not None
        assert self.app._running is not None
        self.app._running._classifier._monotonic = lambda: time.monotonic() + after_s

    async def get(self, name: str) -> b.SlideBatch:
        batch: b.SlideBatch = await self.api.GetSlideBatch(s.GetSlideBatchRequest(name=name))
        return batch

    async def ended(self, name: str, timeout_s: float = HANGS_S) -> b.SlideBatch:
        """The batch, once it is terminal."""

        async def look() -> b.SlideBatch | None:
            batch = await self.get(name)
            return batch if batch.state >= STATE.STATE_SUCCEEDED else None

        found = await until(look, timeout_s, "the batch ends")
        assert found is not None
        return found

    async def ended_in_spite_of_outages(self, name: str, timeout_s: float = HANGS_S) -> b.SlideBatch:
        """`ended`, while Redis comes and goes."""

        async def look() -> b.SlideBatch | None:
            with suppress(grpc.aio.AioRpcError):
                batch = await self.get(name)
                return batch if batch.state >= STATE.STATE_SUCCEEDED else None
            return None

        found = await until(look, timeout_s, "the batch ends")
        assert found is not None
        return found

    async def run(self, name: str, **fate: Any) -> b.SlideBatch:
        """The batch after the worker ran all of its slides."""
        await self.worker.drain(**fate)
        return await self.ended(name)

    async def watch(self, name: str, after: int = 0) -> list[s.WatchSlideBatchResponse]:
        """Everything that a watch says until its end."""
        stream = self.api.WatchSlideBatch(s.WatchSlideBatchRequest(name=name, after_sequence=after))
        return [response async for response in stream]


class Worker:
    """Leases from the real queue, writes outcomes to the real store, completes; runs no model."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.name = f"worker-{uuid.uuid4().hex[:8]}"
        self.ran: list[tuple[str, int]] = []

    async def lease(self, n: int = 1) -> list[Lease]:
        return await self._stack.queue.lease(self.name, n, idle=True)

    async def finish(self, lease: Lease, *, failed: bool = False, review: bool = False) -> bool:
        """True when this outcome is the slide's, and its completion was accepted."""
        laboratory, _, batch = lease.batch.partition("/")
        recorded = await self._stack.batches.record_outcome(
            laboratory, batch, outcome(lease, failed, review, self.name)
        )
        state = "FAILED" if failed else "SUCCEEDED"
        completion = await self._stack.queue.complete(lease, self.name, state, review)
        self.ran.append((lease.batch, lease.index))
        return recorded and completion.accepted

    async def record(self, lease: Lease, *, failed: bool = False, review: bool = False) -> bool:
        """Writes the outcome and no more, as a worker does that dies then."""
        laboratory, _, batch = lease.batch.partition("/")
        return await self._stack.batches.record_outcome(laboratory, batch, outcome(lease, failed, review, self.name))

    async def drain(self, failing: Collection[int] = (), review: Collection[int] = (), at_a_time: int = 64) -> None:
        """Runs all that is ready now; slides with an index in `failing` fail."""
        while leases := await self.lease(at_a_time):
            await asyncio.gather(
                *(self.finish(one, failed=one.index in failing, review=one.index in review) for one in leases)
            )

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Runs whatever comes until the end of the block; survives a Redis that is away."""
        over = False

        async def work() -> None:
            while not over:
                with suppress(GramserveError):
                    await self.drain(at_a_time=16)
                await asyncio.sleep(0.01)

        task = asyncio.create_task(work())
        try:
            yield
        finally:
            over = True  # not cancelled: a broken-off call would leave its connection open
            await task


def outcome(lease: Lease, failed: bool, review: bool, worker: str) -> OutcomeRecord:
    return OutcomeRecord(
        index=lease.index,
        round=lease.round,
        state=SlideState.FAILED if failed else SlideState.SUCCEEDED,
        call=None if failed else {**CALL, "review_reasons": ["LOW_CONFIDENCE"] if review else []},
        error=ErrorRecord("CORRUPT_IMAGE", "the image is damaged") if failed else None,
        attempts=lease.attempts + lease.crashes + 1,
        worker_id=worker,
        artifact_digest=lease.digest,
        engine="none",
        queue_s=lease.queued_s,
        inference_s=0.005,
        time=time.time(),
    )


def slides(count: int) -> list[b.SlideSource]:
    return [
        b.SlideSource(slide_id=f"S-{index:05d}", images=[b.Image(uri=f"file:///data/scans/{index}.jpg")])
        for index in range(count)
    ]


def request(count: int = 3, *, batch_id: str = "", request_id: str = "", **fields: Any) -> s.CreateSlideBatchRequest:
    """A good request, but for what `fields` of its batch say."""
    validate_only = fields.pop("validate_only", False)
    fields = {"slides": slides(count), "model": "models/gram", **fields}
    return s.CreateSlideBatchRequest(
        parent=fields.pop("parent", LAB),
        slide_batch_id=batch_id,
        request_id=request_id,
        slide_batch=b.SlideBatch(**fields),
        validate_only=validate_only,
    )


async def refused(call: Awaitable[Any]) -> tuple[grpc.StatusCode, Any]:
    """Status code and typed error of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), from_rpc_error(raised.value)


def draft() -> ArtifactDraft:
    return ArtifactDraft(
        created=datetime(2026, 1, 2, tzinfo=UTC),
        source=Source(checkpoint_sha256="0" * 64, architecture="deit_tiny", parameters=1, macs=1),
        labels=(Label(name="BACKGROUND", kind="background"), Label(name="GNR", kind="organism", gram="negative")),
        preprocessing=Preprocessing(input_px=32, tiling="grid", tile_px=64, max_single_px=64, min_px=16),
        calibration=Calibration(temperature=1.0),
        aggregation=Aggregation(tile_probability=0.6, min_tiles=1, top_k=3, review_probability=0.8, max_evidence=3),
        engine=EngineSettings(name="onnxruntime"),
        evaluation={"artifact_accuracy": 0.97, "checkpoint_accuracy": 0.98, "proved": True},
    )


def new_request_id() -> str:
    return str(uuid.uuid4())
