"""Every request message of every rpc, sent to a real service over a real socket; INTERNAL is a finding.

The first byte chooses the rpc, the second whether the message is the bytes that follow or is grown from them.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import itertools
import json
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message

from gateway.app import App as Gateway
from gateway.paging import encode_token
from gateway.settings import GatewaySettings
from gramserve.oip import open_inference_pb2 as oip
from gramserve.queue import EmbeddedRedis
from gramserve.rpc.channel import open_channel
from gramserve.rpc.status import from_rpc_error
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from gramserve.v1 import image_service_pb2, model_service_pb2, optimizer_service_pb2, slide_batch_service_pb2
from inference_svc.app import App as Worker
from inference_svc.settings import WorkerSettings
from optimizer_svc.app import App as Optimizer
from optimizer_svc.settings import OptimizerSettings
from tests.artifacts import publish_tiny
from tests.fuzz.dice import Dice, grow
from tests.fuzz.target import Finding, Run, Target

DEADLINE_S = 0.2
"""Watching, and classifying without a worker, would last for ever."""
SLOW_S = 5.0
UPLOADED = b"uploaded"
SHA256 = hashlib.sha256(UPLOADED).hexdigest()
LAB, BATCH = "laboratories/north", "laboratories/north/slideBatches/fuzz-1"
WORDS = (
    *(LAB, BATCH, "laboratories/-", "laboratories/south", "fuzz-1", "fuzz-2", f"{BATCH}/slides/0", SHA256, "0" * 64),
    *("models/gram", "models/gram/versions/1", "models/gram/versions/production", "models/gram/shadow", "models/none"),
    *("production", "shadow", "candidate", "gram", "gram.images", "1", "9" * 30, "tiles", "images", "UINT8", "FP32"),
    *("state=RUNNING", "state=SUCCEEDED AND priority=STAT", 'state="FAILED"', "review_required=true", "state="),
    *("optimizations/opt-1234", "opt-1234", "deit_tiny_patch16_224", "GNR", "BACKGROUND", "bacilli", "cocci"),
    *("9f1c8f3e-3c1b-4d8e-9a51-0f6d3c0a7c11", "file:///etc/passwd", "/proc/self/mem", "http://169.254.169.254/", "A-1"),
)
POSITIONS: tuple[list[Any], ...] = (
    *([], [1], ["x"], [None], [{}], [[[]]], [True], [-1], [10**400], [1e308, "x"], ["x", "y", "z"]),
    *([float("nan"), "x"], [float("inf"), "fuzz-1"], [0, 0], [2**63], ["gram"], [1.5]),
)


@dataclass(frozen=True, slots=True)
class Rpc:
    """One method of a service."""

    method: MethodDescriptor
    streamed: bool
    streams: bool

    @property
    def path(self) -> str:
        return f"/{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def kind(self) -> type[Message]:
        found: type[Message] = message_factory.GetMessageClass(self.method.input_type)
        return found


def rpcs(services: Sequence[ServiceDescriptor]) -> list[Rpc]:
    """All methods of `services`."""
    return [Rpc(method, method.client_streaming, method.server_streaming) for one in services for method in one.methods]


class Caller:
    """Sends inputs to the service behind `channel`."""

    def __init__(self, channel: grpc.aio.Channel, services: Sequence[ServiceDescriptor]) -> None:
        self._channel = channel
        self._rpcs = rpcs(services)

    async def send(self, data: bytes) -> None:
        """Raises Finding for INTERNAL or UNKNOWN, and when there is no answer for long after the deadline."""
        dice = Dice(data)
        rpc = dice.pick(self._rpcs)
        grown = dice.below(2)
        messages = self._grown(rpc, dice) if grown else _parsed(rpc.kind, data[2:])
        if messages is None:
            return
        try:
            async with asyncio.timeout(SLOW_S):
                await self._call(rpc, messages)
        except grpc.aio.AioRpcError as error:
            reason = from_rpc_error(error).reason.value
            if error.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN) or reason == "INTERNAL":
                raise Finding(f"{rpc.path}: {error.code().name} {reason}: {messages[0]!r:.500}") from None
        except asyncio.CancelledError:  # what gRPC raises where a stream broke while it was being written
            return
        except TimeoutError:
            raise Finding(f"{rpc.path} did not answer within {SLOW_S} s: {messages[0]!r:.500}") from None

    async def _call(self, rpc: Rpc, messages: Sequence[Message]) -> None:
        raw = [message.SerializeToString() for message in messages]
        if rpc.streamed:
            await self._channel.stream_unary(rpc.path)(_each(raw), timeout=DEADLINE_S)
        elif rpc.streams:
            async for _ in self._channel.unary_stream(rpc.path)(raw[0], timeout=DEADLINE_S):
                pass
        else:
            await self._channel.unary_unary(rpc.path)(raw[0], timeout=DEADLINE_S * 5)

    def _grown(self, rpc: Rpc, dice: Dice) -> list[Message]:
        made = [rpc.kind() for _ in range(1 + (dice.below(3) if rpc.streamed else 0))]
        for message in made:
            grow(message, dice, WORDS)
            _forge(message, dice)
        return made


def _forge(message: Any, dice: Dice) -> None:
    """A page token that passes for one of this listing, with a position that no listing has."""
    if "page_token" not in message.DESCRIPTOR.fields_by_name or not dice.below(2):
        return
    name, position = message.DESCRIPTOR.name, dice.pick(POSITIONS)
    if name == "ListOptimizationsRequest":
        token = json.dumps(["optimizations", *position]).encode()
        message.page_token = base64.urlsafe_b64encode(token).decode().rstrip("=")
        return
    above = getattr(message, "parent", "").partition("/")[2]
    scopes = {
        "ListSlideBatchesRequest": ("batches", above, getattr(message, "filter", "")),
        "ListSlidesRequest": ("slides", above.replace("slideBatches/", ""), getattr(message, "filter", "")),
        "ListModelsRequest": ("models",),
        "ListModelVersionsRequest": ("versions", above),
    }
    message.page_token = encode_token(scopes[name], position)


def _parsed(kind: type[Message], data: bytes) -> list[Message] | None:
    try:
        return [kind.FromString(data)]
    except DecodeError:
        return None


async def _each(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


def _target(
    service: Callable[[Path, EmbeddedRedis], AbstractAsyncContextManager[int]],
    services: Sequence[ServiceDescriptor],
) -> Target:
    @contextmanager
    def opened() -> Iterator[Run]:
        with (
            tempfile.TemporaryDirectory(prefix="fuzz-", ignore_cleanup_errors=True) as name,
            asyncio.Runner() as runner,
        ):
            folder = Path(name)
            redis = EmbeddedRedis(folder / "redis", prefer="bundled")
            runner.run(redis.start())
            running = service(folder, redis)
            channel = None
            try:
                port = runner.run(_enter(running))

                async def connected() -> grpc.aio.Channel:
                    return open_channel(f"127.0.0.1:{port}")

                channel = runner.run(connected())
                caller = Caller(channel, services)
                yield lambda data: runner.run(caller.send(data))
            finally:
                if channel is not None:
                    runner.run(channel.close())
                    runner.run(_leave(running))
                runner.run(redis.stop())

    def seeds() -> list[bytes]:
        count = len(rpcs(services))
        fill = bytes(1 + n * 7 % 251 for n in range(160))
        return [bytes([number, grown]) + fill for number, grown in itertools.product(range(count), (0, 1))]

    return Target(opened, seeds, 4096)


async def _enter(service: AbstractAsyncContextManager[int]) -> int:
    return await service.__aenter__()


async def _leave(service: AbstractAsyncContextManager[int]) -> None:
    await service.__aexit__(None, None, None)


@asynccontextmanager
async def _gateway(folder: Path, redis: EmbeddedRedis) -> AsyncIterator[int]:
    store = open_store(str(folder / "store"))
    await publish_tiny(Registry(store))
    await store.put(f"slides/north/{SHA256}", UPLOADED)
    app = Gateway(
        GatewaySettings(
            listen="127.0.0.1:0",
            metrics_port=-1,
            store_url=str(folder / "store"),
            redis_url=redis.url,
            shutdown_grace_s=0.1,
            max_upload_bytes=1 << 20,
        )
    )
    port = await app.start()
    try:
        async with open_channel(f"127.0.0.1:{port}") as channel:
            request = slide_batch_service_pb2.CreateSlideBatchRequest(parent=LAB, slide_batch_id="fuzz-1")
            request.slide_batch.model = "models/gram"
            request.slide_batch.slides.add(slide_id="A-1").images.add(sha256=SHA256)
            path = "/gramserve.v1.SlideBatchService/CreateSlideBatch"
            await channel.unary_unary(path)(request.SerializeToString())
        yield port
    finally:
        await app.stop()


@asynccontextmanager
async def _optimizer(folder: Path, redis: EmbeddedRedis) -> AsyncIterator[int]:
    store = open_store(str(folder / "store"))
    await store.put(f"checkpoints/{SHA256}", UPLOADED)
    app = Optimizer(
        OptimizerSettings(
            listen="127.0.0.1:0",
            metrics_port=-1,
            store_url=str(folder / "store"),
            redis_url=redis.url,
            work_folder=str(folder / "work"),
            stop_grace_s=0.1,
            max_upload_bytes=1 << 20,
        ),
        job_command=("false",),
    )
    await app.start()
    try:
        yield app.port
    finally:
        await app.stop()


@asynccontextmanager
async def _worker(folder: Path, redis: EmbeddedRedis) -> AsyncIterator[int]:
    await publish_tiny(Registry(open_store(str(folder / "store"))), input_px=8)
    app = Worker(
        WorkerSettings(
            listen="127.0.0.1:0",
            metrics_port=-1,
            store_url=str(folder / "store"),
            redis_url=redis.url,
            children=1,
        )
    )
    await app.start()
    try:
        await app.ready()
        yield app.port
    finally:
        await app.stop(0.0)


GATEWAY = _target(
    _gateway,
    [
        slide_batch_service_pb2.DESCRIPTOR.services_by_name["SlideBatchService"],
        image_service_pb2.DESCRIPTOR.services_by_name["ImageService"],
        model_service_pb2.DESCRIPTOR.services_by_name["ModelService"],
    ],
)
OPTIMIZER = _target(
    _optimizer,
    [optimizer_service_pb2.DESCRIPTOR.services_by_name["OptimizerService"]],
)
WORKER = _target(
    _worker,
    [oip.DESCRIPTOR.services_by_name["GRPCInferenceService"]],
)
