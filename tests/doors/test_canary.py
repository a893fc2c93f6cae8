"""A patient's name, pushed through every way in, is found nowhere but in the store: bad ways included."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import grpc.aio
import pytest

from gramserve.oip import open_inference_pb2 as oip
from gramserve.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from gramserve.queue import connect
from gramserve.rpc.channel import open_channel
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from gramserve.v1 import image_service_pb2 as images
from gramserve.v1 import model_pb2, optimization_pb2, optimizer_service_pb2
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1.image_service_pb2_grpc import ImageServiceStub
from gramserve.v1.optimizer_service_pb2_grpc import OptimizerServiceStub
from gramserve.v1.slide_batch_service_pb2_grpc import SlideBatchServiceStub
from gramserve.v1.upload_pb2 import UploadHeader
from tests.artifacts import coloured_file, publish_tiny
from tests.attacks.pictures import dicom
from tests.e2e.running import GRAMSERVE, Up
from tests.images.files import png_chunk
from tests.waiting import HANGS_S, until

NAME = "Zyxwanda-Canaryfeather"
LAB = "laboratories/north"
METRICS_PORT = 19_340


def image_with_the_name(colour: str = "GNR") -> bytes:
    """A field whose metadata has the name."""
    data = coloured_file(colour)
    return data[:33] + png_chunk(b"tEXt", b"Title\0" + NAME.encode()) + data[33:]


class Caller:
    """Calls everything, and keeps all that an error says."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.answered = 0

    async def __call__(self, call: Awaitable[Any]) -> Any:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            trailers = list(error.trailing_metadata() or ())
            self.errors.append(repr((error.code(), error.details(), trailers)))
            return None
        self.answered += 1
        return answer


@asynccontextmanager
async def stack(folder: Path, root: Path) -> AsyncIterator[Up]:
    """Everything, the optimizer too, with logs that say as much as they can."""
    await publish_tiny(Registry(open_store(str(folder / "store"))))
    environment = {
        "GRAMSERVE_LOG_LEVEL": "DEBUG",
        "GRAMSERVE_WORKER_ALLOWED_ROOTS": str(root),
        "GRAMSERVE_GATEWAY_MANIFEST_ROOTS": str(root),
        "GRAMSERVE_OPTIMIZER_ALLOWED_ROOTS": str(root),
        "GRAMSERVE_STREAM_IDLE_S": "2",
    }
    up = Up(folder, "--metrics-port", str(METRICS_PORT), environment=environment)
    try:
        await up.ready()
        yield up
    finally:
        await up.stop()


def slide(slide_id: str = NAME, **image: Any) -> b.SlideSource:
    return b.SlideSource(slide_id=slide_id, images=[b.Image(**image)], specimen_type=NAME)


async def through_the_gateway(call: Caller, channel: grpc.aio.Channel, root: Path) -> list[str]:
    """Good and bad requests; the names of the batches that came of it."""
    api: Any = SlideBatchServiceStub(channel)
    uploads: Any = ImageServiceStub(channel)
    digests = {}
    for data in (
        image_with_the_name(),
        dicom(PatientName=NAME, PatientID=NAME),
        NAME.encode(),
        b"II*\0" + NAME.encode(),
    ):
        digest = hashlib.sha256(data).hexdigest()
        digests[data[:8]] = digest
        header = UploadHeader(parent=LAB, sha256=digest, size_bytes=len(data))
        await call(
            uploads.UploadImage(iter([images.UploadImageRequest(header=header), images.UploadImageRequest(chunk=data)]))
        )
    wrong = UploadHeader(parent=f"laboratories/{NAME}", sha256=NAME, size_bytes=4)
    await call(uploads.UploadImage(iter([images.UploadImageRequest(header=wrong)])))
    await call(uploads.UploadImage(iter([images.UploadImageRequest(chunk=NAME.encode())])))
    idle = uploads.UploadImage()
    await idle.write(images.UploadImageRequest(header=UploadHeader(parent=LAB, sha256="0" * 64, size_bytes=99)))
    await idle.write(images.UploadImageRequest(chunk=NAME.encode()))
    await call(idle)
    await call(uploads.GetImageUpload(images.GetImageUploadRequest(parent=LAB, sha256=NAME)))

    sources = [slide(f"{NAME} {number}", sha256=digest) for number, digest in enumerate(digests.values())]
    sources += [
        slide(f"{NAME} inline", content=image_with_the_name("GPR")),
        slide(f"{NAME} file", uri=f"file://{root}/{NAME}.png"),
        slide(f"{NAME} missing", uri=f"file://{root}/{NAME}/missing.png"),
        slide(f"{NAME} denied", uri=f"/home/{NAME}.png"),
        slide(f"{NAME} web", uri=f"https://{NAME}.example/{NAME}.png"),
        slide(f"{NAME} wrong", sha256=digests[image_with_the_name()[:8]], content_sha256="0" * 64),
    ]

    def create(**fields: Any) -> s.CreateSlideBatchRequest:
        outer = {key: fields.pop(key) for key in ("parent", "slide_batch_id", "request_id") if key in fields}
        inner = {"model": "models/gram", "annotations": {NAME: NAME}, "slides": sources, **fields}
        return s.CreateSlideBatchRequest(**{"parent": LAB, **outer}, slide_batch=b.SlideBatch(**inner))

    manifest = root / f"{NAME}.jsonl"
    manifest.write_text(f'{{"slideId": "{NAME}", "images": [{{"uri": "file://{root}/{NAME}.png"}}]}}\n')
    bad_manifest = root / f"bad {NAME}.jsonl"
    bad_manifest.write_text(f'{{"slideId": "{NAME}", "patient": "{NAME}"}}\n{NAME}\n')
    made = [
        await call(api.CreateSlideBatch(create())),
        await call(api.CreateSlideBatch(create(slides=[], manifest_uri=str(manifest)))),
    ]
    for bad in (
        create(slides=[sources[0], sources[0]]),
        create(slides=[slide(NAME + "\n", sha256=NAME)]),
        create(slides=[slide(uri="")]),
        create(slides=[], manifest_uri=str(bad_manifest)),
        create(slides=[], manifest_uri=f"/nowhere/{NAME}"),
        create(slides=[], manifest_uri=f"http://{NAME}/"),
        create(model=f"models/{NAME}"),
        create(model=NAME.lower()),
        create(parent=NAME),
        create(slide_batch_id=NAME),
        create(request_id=NAME),
        create(annotations={NAME: NAME * 100}),
    ):
        await call(api.CreateSlideBatch(bad))
    await call(api.ClassifySlide(s.ClassifySlideRequest(parent=LAB, model="models/gram", slide=sources[4])))
    await call(api.ClassifySlide(s.ClassifySlideRequest(parent=LAB, model=NAME, slide=sources[4])))
    for name in (NAME, f"{LAB}/slideBatches/{NAME}", f"laboratories/{NAME}/slideBatches/{NAME}"):
        await call(api.GetSlideBatch(s.GetSlideBatchRequest(name=name)))
        await call(api.CancelSlideBatch(s.CancelSlideBatchRequest(name=name, etag=NAME)))
        await call(api.RetrySlideBatch(s.RetrySlideBatchRequest(name=name, request_id=NAME)))
        await call(api.WatchSlideBatch(s.WatchSlideBatchRequest(name=name)).read())
        await call(api.ListSlides(s.ListSlidesRequest(parent=name, filter=NAME)))
    await call(api.ListSlideBatches(s.ListSlideBatchesRequest(parent=LAB, filter=f"state={NAME}", page_token=NAME)))
    await call(channel.unary_unary(f"/gramserve.v1.SlideBatchService/{NAME}")(b""))
    await call(channel.unary_unary("/gramserve.v1.SlideBatchService/GetSlideBatch")(NAME.encode()))
    await call(api.GetSlideBatch(s.GetSlideBatchRequest(name="x"), metadata=[("patient", NAME)]))
    names = [batch.name for batch in made]

    async def ended() -> bool:
        found = [await api.GetSlideBatch(s.GetSlideBatchRequest(name=name)) for name in names]
        return all(batch.state >= b.SlideBatch.STATE_SUCCEEDED for batch in found)

    await until(ended, what="both batches ended")
    # The way out that is meant for it: who submitted the slides gets the names back.
    listed = await api.ListSlides(s.ListSlidesRequest(parent=names[0]))
    assert listed.slides[0].slide_id.startswith(NAME)
    return names


async def through_inference(call: Caller, channel: grpc.aio.Channel) -> None:
    stub: Any = GRPCInferenceServiceStub(channel)
    for model in ("gram", "gram.images", NAME):
        request = oip.ModelInferRequest(
            model_name=model, model_version=NAME, id=NAME, raw_input_contents=[NAME.encode()]
        )
        request.inputs.add(name=NAME, datatype=NAME, shape=[1])
        request.parameters[NAME].string_param = NAME
        await call(stub.ModelInfer(request))
        request = oip.ModelInferRequest(model_name=model, id=NAME)
        request.inputs.add(name="images", datatype="BYTES", shape=[1])
        data = image_with_the_name()[:80]
        request.raw_input_contents.append(len(data).to_bytes(4, "little") + data)
        await call(stub.ModelInfer(request))
    await call(stub.ModelMetadata(oip.ModelMetadataRequest(name=NAME)))
    await call(stub.ModelReady(oip.ModelReadyRequest(name=NAME, version=NAME)))


async def through_the_optimizer(call: Caller, channel: grpc.aio.Channel, root: Path) -> None:
    stub: Any = OptimizerServiceStub(channel)
    checkpoint = root / f"{NAME}.pth"
    checkpoint.write_bytes(b"\x80\x04" + NAME.encode())
    (root / "data" / "train" / NAME).mkdir(parents=True)
    (root / "data" / "train" / NAME / f"{NAME}.png").write_bytes(image_with_the_name())
    labels = [
        model_pb2.Label(name="BACKGROUND", kind=model_pb2.Label.KIND_BACKGROUND),
        model_pb2.Label(
            name="CANARY",
            kind=model_pb2.Label.KIND_ORGANISM,
            gram=model_pb2.Label.GRAM_NEGATIVE,
        ),
    ]
    made = await call(stub.CreateOptimization(optimization(f"file://{checkpoint}", f"file://{root}/data", labels)))
    assert made is not None, call.errors[-1]
    for one in (
        optimization(f"/elsewhere/{NAME}", f"file://{root}/data", labels),
        optimization(f"file://{root}/missing {NAME}", f"file://{root}/data", labels),
        optimization(f"file://{checkpoint}", f"http://{NAME}/", labels),
    ):
        await call(stub.CreateOptimization(one))
    await call(stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name=NAME)))

    async def ended() -> bool:
        now = await stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name=made.name))
        if now.state == optimization_pb2.Optimization.STATE_FAILED:
            call.errors.append(repr(now.error))
            return True
        return False

    await until(ended, what="the optimization failed")


def optimization(checkpoint: str, data: str, labels: Any) -> Any:
    spec = optimization_pb2.Optimization(
        checkpoint=optimization_pb2.FileSource(uri=checkpoint),
        data=optimization_pb2.FileSource(uri=data),
        architecture="deit_tiny_patch16_224",
        labels=labels,
        model="models/canary",
    )
    return optimizer_service_pb2.CreateOptimizationRequest(optimization=spec)


async def in_redis(up: Up) -> list[str]:
    """Places of the name in Redis: keys, what is behind them, and its files on disk, written without compression."""
    redis: Any = connect(f"unix://{quote(str(up.folder / 'redis' / 'redis.sock'))}")
    found = []
    try:
        await redis.config_set("rdbcompression", "no")
        await redis.save()
        for key in [key async for key in redis.scan_iter("*")]:
            value = await redis.dump(key) or b""
            if NAME.lower() in repr(key).lower() or NAME.lower().encode() in value.lower():
                found.append(f"key {key!r}")
    finally:
        await redis.aclose()
    return found


def in_files(folder: Path, without: Callable[[Path], bool]) -> list[str]:
    wanted = NAME.lower().encode()
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if not without(path.relative_to(folder))
        and (wanted in str(path).lower().encode() or (path.is_file() and wanted in path.read_bytes().lower()))
    ]


KEPT = re.compile(r"store/(batches/|slides/|uploads/|optimizations/|checkpoints/)|optimizer/opt-[^/]*/job\.json$")
"""Batch objects, the pictures themselves, and what an optimization was asked for."""


@pytest.mark.slow
async def test_a_name_is_found_nowhere_but_in_the_store(tmp_path: Path) -> None:
    root = tmp_path / "scans"
    root.mkdir()
    (root / f"{NAME}.png").write_bytes(image_with_the_name())
    call = Caller()
    async with stack(tmp_path / "up", root) as up:
        worker = re.search(r"^worker\S* +(\S+),", up.said, re.MULTILINE)
        assert worker, up.said
        async with (
            open_channel(up.address("gateway")) as gateway,
            open_channel(worker[1]) as inference,
            open_channel(up.address("optimizer")) as optimizer,
        ):
            await through_the_gateway(call, gateway, root)
            await through_inference(call, inference)
            await through_the_optimizer(call, optimizer, root)
        command = [GRAMSERVE, "submit", str(root / f"{NAME}.png"), "--model", NAME, "--gateway", up.address("gateway")]
        await asyncio.to_thread(
            subprocess.run, command, capture_output=True, timeout=HANGS_S, check=False, env=os.environ
        )
        metrics = []
        for port in range(METRICS_PORT, METRICS_PORT + 4):
            url = f"http://127.0.0.1:{port}/metrics"
            metrics.append(await asyncio.to_thread(lambda url=url: urllib.request.urlopen(url, timeout=HANGS_S).read()))
        redis = await in_redis(up)
        said = up.said
    folder = tmp_path / "up"
    # It was pushed hard enough to be found where it belongs.
    assert call.answered > 8
    assert len(call.errors) > 35
    assert in_files(folder / "store" / "batches", lambda path: False)
    assert [path.name for path in (folder / "logs").iterdir() if path.stat().st_size]
    assert [error for error in call.errors if NAME.lower() in error.lower()] == []
    assert [text for text in metrics if NAME.lower().encode() in text.lower()] == []
    assert redis == []
    assert NAME.lower() not in said.lower()
    assert in_files(folder, lambda path: bool(KEPT.match(str(path)))) == []
