"""Accepting batches."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time

import grpc
import pytest

from gramserve.errors import Reason
from gramserve.store import layout
from gramserve.store.local import LocalObjects
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.stack import LAB, STATE, Stack, new_request_id, refused, request
from tests.waiting import until


async def test_a_batch_is_answered_once_it_is_in_the_store_and_in_the_queue(stack: Stack) -> None:
    batch = await stack.create(1203, annotations={"run": "7"}, priority=b.SlideBatch.PRIORITY_STAT)

    assert batch.state == STATE.STATE_QUEUED
    assert batch.completion_stats.total_count == batch.completion_stats.queued_count == 1203
    assert batch.annotations == {"run": "7"}
    laboratory, _, key = batch.name.removeprefix("laboratories/").partition("/slideBatches/")
    record = await stack.batches.get_batch(laboratory, key)
    assert record is not None
    assert record.slide_count == 1203
    assert [slide.slide_id async for slide in stack.batches.slides(laboratory, key, 1200)] == [
        "S-01200",
        "S-01201",
        "S-01202",
    ]
    depth = await stack.queue.depth()
    assert (depth.ready_stat, depth.ready_routine) == (1203, 0)


async def test_I13_the_model_version_is_frozen_when_the_batch_is_created(stack: Stack) -> None:
    batch = await stack.create()
    version, _ = await stack.publish()

    assert version == 2
    assert (await stack.get(batch.name)).model_version == "models/gram/versions/1"
    lease = (await stack.worker.lease())[0]
    assert lease.version == "models/gram/versions/1"
    assert lease.digest == batch.model_digest
    assert (await stack.create()).model_version == "models/gram/versions/2"


async def test_an_empty_model_means_the_only_one_in_production(stack: Stack) -> None:
    assert (await stack.create(model="")).model_version == "models/gram/versions/1"
    await stack.publish("other")
    code, error = await refused(stack.create(model=""))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason is Reason.INVALID_FIELD
    assert [field for field, _ in error.violations] == ["slide_batch.model"]


async def test_inline_images_lie_under_their_digest_before_the_answer(stack: Stack) -> None:
    data = b"\x89PNG pixels"
    slide = b.SlideSource(slide_id="a", images=[b.Image(content=data), b.Image(content=b"")])
    await stack.create(slides=[slide])

    digest = hashlib.sha256(data).hexdigest()
    assert await stack.objects.get(layout.slide_path("north", digest)) == data
    lease = (await stack.worker.lease())[0]
    kept = await stack.batches.slide("north", lease.batch.partition("/")[2], 0)
    assert [image.sha256 for image in kept.images] == [digest, hashlib.sha256(b"").hexdigest()]


async def test_validate_only_checks_everything_and_writes_nothing(stack: Stack) -> None:
    asked = request(3, validate_only=True, batch_id="try-this", request_id=new_request_id())
    answer = await stack.api.CreateSlideBatch(asked)

    assert answer.name == f"{LAB}/slideBatches/try-this"
    assert answer.model_version == "models/gram/versions/1"
    assert answer.completion_stats.total_count == 3
    assert answer.state == STATE.STATE_UNSPECIFIED
    assert await stack.objects.folders("batches") == []
    assert await stack.objects.folders("requests") == []
    code, _ = await refused(stack.create(0, validate_only=True))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


async def test_ten_thousand_slides_come_from_a_manifest_file(stack: Stack) -> None:
    folder = stack.folder / "manifests"
    folder.mkdir()
    lines = [
        json.dumps({"slideId": f"M-{i}", "images": [{"uri": f"file:///data/{i}.tif"}], "specimenType": "csf"})
        for i in range(10_000)
    ]
    (folder / "night.jsonl").write_text("\n".join(lines) + "\n")
    batch = await stack.create(slides=[], manifest_uri=(folder / "night.jsonl").as_uri())

    assert batch.completion_stats.queued_count == 10_000
    kept = await stack.batches.slide("north", batch.name.rpartition("/")[2], 9_999)
    assert (kept.slide_id, kept.specimen_type, kept.images[0].uri) == ("M-9999", "csf", "file:///data/9999.tif")


async def test_what_precedes_the_commit_is_written_side_by_side_and_the_commit_after_all_of_it(
    stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    create, going, let = LocalObjects.create, set[str](), asyncio.Event()

    async def held(objects: LocalObjects, path: str, data: bytes) -> bool:
        going.add(path.partition("/")[0] if not path.endswith("batch.json") else "commit")
        await let.wait()
        return await create(objects, path, data)

    monkeypatch.setattr(LocalObjects, "create", held)
    slide = b.SlideSource(slide_id="a", images=[b.Image(content=b"pixels")])
    answer = asyncio.create_task(stack.create(slides=[slide], request_id=new_request_id()))
    before = {"requests", "slides", "batches", "open", "audit"}
    await until(lambda: going >= before)
    assert going == before
    let.set()
    await answer
    assert "commit" in going


async def test_the_same_slides_may_be_in_two_batches(stack: Stack) -> None:
    first, second = await stack.create(), await stack.create()
    assert first.name != second.name


async def test_a_batch_of_another_laboratory_is_not_found(stack: Stack) -> None:
    batch = await stack.create(parent="laboratories/south", batch_id="night-1")
    assert batch.name == "laboratories/south/slideBatches/night-1"
    code, error = await refused(stack.get(f"{LAB}/slideBatches/night-1"))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.UNKNOWN_BATCH)


async def test_the_times_of_a_batch_tell_its_life(stack: Stack) -> None:
    before = time.time()
    batch = await stack.create(4)
    assert before - 1 < batch.create_time.seconds < before + 30
    for lease in await stack.worker.lease(2):
        await stack.worker.finish(lease)
        await asyncio.sleep(0.002)  # so that the throughput is that of two moments
    running = await stack.get(batch.name)
    assert running.state == STATE.STATE_RUNNING
    assert running.HasField("start_time")
    assert running.HasField("estimated_end_time")
    assert not running.HasField("end_time")
    ended = await stack.run(batch.name)
    assert ended.end_time.ToMicroseconds() >= ended.start_time.ToMicroseconds() >= batch.create_time.ToMicroseconds()
    assert not ended.HasField("estimated_end_time")


async def test_I2_a_slide_is_recorded_once_whoever_runs_it_again(stack: Stack) -> None:
    batch = await stack.create(1)
    lease = (await stack.worker.lease())[0]
    assert await stack.worker.finish(lease)
    assert not await stack.worker.finish(lease, failed=True)
    ended = await stack.ended(batch.name)
    assert ended.state == STATE.STATE_SUCCEEDED
    assert ended.completion_stats.succeeded_count == 1
    assert len((await stack.api.ListSlides(s.ListSlidesRequest(parent=batch.name))).slides) == 1
