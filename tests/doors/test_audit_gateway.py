"""What the gateway does is in the audit record, and what cannot be recorded is not done."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from gateway.models import Models
from gramserve.errors import PermissionDenied, Reason
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.store.audit_record import AuditRecord
from gramserve.store.audit_verify import read_audit, verify
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1.image_service_pb2 import UploadImageRequest
from gramserve.v1.model_service_pb2 import (
    GetModelRequest,
    PromoteModelVersionRequest,
    RemoveModelAliasRequest,
    RollbackModelRequest,
)
from gramserve.v1.upload_pb2 import UploadHeader
from tests.gateway.conftest import redis, stack
from tests.gateway.stack import LAB, STATE, Stack, new_request_id, refused, request
from tests.waiting import until

__all__ = ["redis", "stack"]
CANARY = "KOCH-ROBERT-1843-12-11"


async def records(stack: Stack, action: str = "") -> list[AuditRecord]:
    return [record async for record in read_audit(stack.objects) if action in {"", record.action}]


async def upload(stack: Stack, data: bytes) -> Any:
    async def messages() -> AsyncIterator[UploadImageRequest]:
        sha256 = hashlib.sha256(data).hexdigest()
        yield UploadImageRequest(header=UploadHeader(parent=LAB, sha256=sha256, size_bytes=len(data)))
        yield UploadImageRequest(chunk=data)

    return await stack.images.UploadImage(messages())


async def test_the_life_of_a_batch_is_recorded_with_the_artifact_that_called_it(stack: Stack) -> None:
    digest = (await stack.registry.manifest("gram", 1))[1]
    batch = await stack.create(3, request_id=new_request_id())
    await stack.worker.drain(failing=[1])
    await stack.ended(batch.name)
    await stack.api.ListSlides(s.ListSlidesRequest(parent=batch.name))
    await stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=batch.name))
    await stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=batch.name))
    await stack.ended(batch.name)
    found = await records(stack)
    assert [record.action for record in found] == [
        "batch.create",
        "batch.deliver",
        "results.read",
        "batch.retry",
        "batch.cancel",
        "batch.deliver",
    ]
    assert {record.object for record in found} == {batch.name}
    assert {record.artifact for record in found if record.action != "results.read"} == {digest}
    assert {record.actor for record in found if record.action == "batch.deliver"} == {"gramserve"}
    assert {record.actor for record in found if record.action != "batch.deliver"} == {"anyone"}
    manifest = hashlib.sha256(
        await stack.objects.get(f"batches/north/{batch.name.rpartition('/')[2]}/output/1/manifest.json")
    ).hexdigest()
    assert found[-1].detail == {"round": 1, "manifest": manifest, "succeeded": 2, "failed": 1}
    assert (await verify(stack.objects)).head.number == 6


async def test_a_watch_that_shows_calls_is_recorded_once_as_reading_them(stack: Stack) -> None:
    batch = await stack.create(3)
    await stack.run(batch.name)
    told = await stack.watch(batch.name)
    assert sum(bool(one.slide.call.ByteSize()) for one in told) == 3
    (record,) = await records(stack, "results.read")
    assert (record.object, record.actor, record.detail) == (batch.name, "anyone", {"after": 0})
    code, _ = await refused(stack.watch(f"{LAB}/slideBatches/unknown"))
    assert code is grpc.StatusCode.NOT_FOUND
    assert len(await records(stack, "results.read")) == 1


async def test_one_slide_at_once_is_recorded_as_such_for_whoever_asks_and_asks_again(stack: Stack) -> None:
    ask = s.ClassifySlideRequest(
        parent=LAB,
        slide=b.SlideSource(slide_id=CANARY, images=[b.Image(content=b"pixels")]),
        request_id=new_request_id(),
    )
    async with stack.worker.working():
        await stack.api.ClassifySlide(ask)
        await stack.api.ClassifySlide(ask)
    found = await records(stack, "slide.classify")
    assert len(found) == 2
    assert found[0].object == found[1].object
    assert found[0].object.startswith(f"{LAB}/slideBatches/")


async def test_uploads_and_every_move_of_an_alias_are_recorded(stack: Stack) -> None:
    await stack.publish(promote=False)
    sha256 = (await upload(stack, b"pixels")).sha256
    await stack.models.PromoteModelVersion(PromoteModelVersionRequest(name="models/gram/versions/2"))
    await stack.models.RollbackModel(RollbackModelRequest(name="models/gram"))
    shadow = PromoteModelVersionRequest(name="models/gram/versions/2", alias="shadow", share=0.25)
    await stack.models.PromoteModelVersion(shadow)
    await stack.models.RemoveModelAlias(RemoveModelAliasRequest(name="models/gram", alias="shadow"))
    digest = (await stack.registry.manifest("gram", 2))[1]
    found = [(record.action, record.object, record.artifact, record.detail) for record in await records(stack)]
    assert found == [
        ("image.upload", f"{LAB}/images/{sha256}", "", {"bytes": 6}),
        ("model.promote", "models/gram/versions/2", digest, {"alias": "production", "share": "0"}),
        ("model.roll_back", "models/gram", digest, {"alias": "production", "version": "2"}),
        ("model.promote", "models/gram/versions/2", digest, {"alias": "shadow", "share": "0.25"}),
        ("model.remove_alias", "models/gram", digest, {"alias": "shadow", "version": "2"}),
    ]


async def test_an_alias_that_cannot_be_is_refused_before_it_is_recorded(stack: Stack) -> None:
    named = PromoteModelVersionRequest(name="models/gram/versions/1", alias=f"\x1b[2J{CANARY}")
    shared = PromoteModelVersionRequest(name="models/gram/versions/1", share=2.0)
    for wrong in (named, shared):
        code, _ = await refused(stack.models.PromoteModelVersion(wrong))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert await records(stack) == []


async def test_no_name_of_a_slide_a_file_or_an_annotation_is_in_the_record(stack: Stack) -> None:
    slide = b.SlideSource(
        slide_id=CANARY, images=[b.Image(uri=f"file:///scans/{CANARY}.png")], specimen_type=CANARY.lower()
    )
    batch = await stack.create(slides=[slide], annotations={CANARY: CANARY})
    await stack.run(batch.name)
    await stack.api.ListSlides(s.ListSlidesRequest(parent=batch.name))
    lines = b"".join([record.line() for record in await records(stack)])
    assert lines.count(b"\n") == 3
    assert CANARY.lower().encode() not in lines.lower()


async def test_a_call_that_was_refused_is_recorded_with_its_count(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deny(self: Models, model: str) -> list[int]:
        raise PermissionDenied(Reason.PERMISSION_DENIED, "not you")

    monkeypatch.setattr(Models, "versions", deny)
    for _ in range(5):
        code, _ = await refused(stack.models.GetModel(GetModelRequest(name="models/gram")))
        assert code is grpc.StatusCode.PERMISSION_DENIED

    async def counted() -> bool:
        return sum(record.detail["count"] for record in await records(stack, "access.refuse")) == 5

    await until(counted)
    (record, *_) = await records(stack, "access.refuse")
    assert record.object == "gramserve.v1.ModelService/GetModel"
    assert record.detail["reason"] == "PERMISSION_DENIED"


def _break(stack: Stack) -> None:
    """From now on nothing can be written where records go; everything else of the store works."""
    place = Path(stack.store_url) / "audit" / "open"
    place.rename(place.with_name("kept"))
    place.write_bytes(b"")


def _repair(stack: Stack) -> None:
    place = Path(stack.store_url) / "audit" / "open"
    place.unlink()
    place.with_name("kept").rename(place)


async def test_what_cannot_be_recorded_is_not_done(stack: Stack) -> None:
    await stack.publish(promote=False)
    ended = await stack.create(2)
    await stack.worker.drain(failing=[0])
    await stack.ended(ended.name)
    running = await stack.create(2)
    _break(stack)
    attempts = [
        stack.api.CreateSlideBatch(request(3, batch_id="never")),
        stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=running.name)),
        stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=ended.name)),
        stack.api.ListSlides(s.ListSlidesRequest(parent=ended.name)),
        stack.models.PromoteModelVersion(PromoteModelVersionRequest(name="models/gram/versions/2")),
        upload(stack, b"pixels"),
    ]
    for attempt in attempts:
        code, error = await refused(attempt)
        assert code is grpc.StatusCode.UNAVAILABLE
        assert error.retry_after_s
    assert await stack.batches.get_batch("north", "never") is None
    assert (await stack.get(running.name)).state == STATE.STATE_QUEUED
    assert (await stack.get(ended.name)).state == STATE.STATE_PARTIALLY_SUCCEEDED
    alias = await stack.registry.alias("gram", "production")
    assert alias is not None
    assert alias.version == 1
    assert [info async for info in stack.objects.list("slides")] == []


async def test_a_batch_is_delivered_as_soon_as_that_can_be_recorded_again(stack: Stack) -> None:
    batch = await stack.create(2)
    _break(stack)
    await stack.worker.drain()
    assert (await stack.get(batch.name)).state == STATE.STATE_RUNNING
    _repair(stack)
    assert (await stack.ended(batch.name)).state == STATE.STATE_SUCCEEDED
    assert [record.action for record in await records(stack)] == ["batch.create", "batch.deliver"]


async def test_two_gateways_keep_one_record(stack: Stack, tmp_path: Path, redis: EmbeddedRedis) -> None:
    other = Stack(tmp_path, redis)
    await other.start()
    try:
        await asyncio.gather(*(where.create(1) for _ in range(20) for where in (stack, other)))
    finally:
        await other.stop()
    assert len({record.object for record in await records(stack, "batch.create")}) == 40
    await verify(stack.objects)
