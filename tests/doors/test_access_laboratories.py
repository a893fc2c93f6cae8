"""No laboratory can see, count or guess what another has."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from prometheus_client import generate_latest

from gramserve.access.principal import Role
from gramserve.errors import Reason
from gramserve.queue import EmbeddedRedis
from gramserve.rpc.status import from_rpc_error
from gramserve.v1 import image_service_pb2 as i
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from gramserve.v1.upload_pb2 import UploadHeader
from tests.doors.callers import Bearing, Callers
from tests.gateway.stack import Stack, request
from tests.services import redis_server
from tests.waiting import HANGS_S

NORTH, SOUTH = "laboratories/north", "laboratories/south"
IMAGE = b"pixels of a patient in the north"
DIGEST = hashlib.sha256(IMAGE).hexdigest()
UNKNOWN = hashlib.sha256(b"never sent").hexdigest()


class Two:
    """A gateway with a submitter in each of two laboratories; the north has a batch and an image."""

    def __init__(self, stack: Stack, callers: Callers) -> None:
        self.stack = stack
        self.tokens = callers.tokens
        self.editor = callers.editor
        self.north, self.south, self.both = (
            (Bearing(stack.api, token), Bearing(stack.images, token)) for token in callers.tokens.values()
        )
        self.batch = b.SlideBatch()

    async def fill(self) -> None:
        self.batch = await self.north[0].CreateSlideBatch(request(3, batch_id="of-the-north", parent=NORTH))
        await self.north[1].UploadImage(_upload(NORTH))
        assert (await self.north[1].GetImageUpload(_image(NORTH, DIGEST))).status.complete


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def two(tmp_path: Path, own_redis: EmbeddedRedis) -> AsyncIterator[Two]:
    callers = Callers(tmp_path)
    callers.add("lis-north", [Role.SUBMITTER], ["north"])
    callers.add("lis-south", [Role.SUBMITTER], ["south"])
    callers.add("lis-of-both", [Role.SUBMITTER], ["north", "south"])
    stack = Stack(tmp_path, own_redis, access_file=str(callers.path))
    await stack.publish()
    await stack.start()
    try:
        made = Two(stack, callers)
        await made.fill()
        yield made
    finally:
        await stack.stop()


def _image(parent: str, sha256: str) -> i.GetImageUploadRequest:
    return i.GetImageUploadRequest(parent=parent, sha256=sha256)


async def _upload(parent: str, sha256: str = DIGEST) -> AsyncIterator[i.UploadImageRequest]:
    yield i.UploadImageRequest(header=UploadHeader(parent=parent, sha256=sha256, size_bytes=len(IMAGE)))
    yield i.UploadImageRequest(chunk=IMAGE)


def _questions(caller: tuple[Any, Any], batch: b.SlideBatch) -> dict[str, tuple[Any, Any]]:
    """Calls about something of the north that there is, each beside one about something that there is not."""
    api, images = caller
    name, missing = batch.name, f"{NORTH}/slideBatches/never-was"
    return {
        "get": tuple(api.GetSlideBatch(s.GetSlideBatchRequest(name=one)) for one in (name, missing)),
        "slides": tuple(api.ListSlides(s.ListSlidesRequest(parent=one)) for one in (name, missing)),
        "cancel": tuple(
            api.CancelSlideBatch(s.CancelSlideBatchRequest(name=one, etag=batch.etag)) for one in (name, missing)
        ),
        "retry": tuple(api.RetrySlideBatch(s.RetrySlideBatchRequest(name=one)) for one in (name, missing)),
        "list": tuple(
            api.ListSlideBatches(s.ListSlideBatchesRequest(parent=one)) for one in (NORTH, "laboratories/nowhere")
        ),
        "create": tuple(
            api.CreateSlideBatch(request(3, batch_id=one, parent=NORTH)) for one in ("of-the-north", "never-was")
        ),
        "watch": tuple(_first(api.WatchSlideBatch(s.WatchSlideBatchRequest(name=one))) for one in (name, missing)),
        "image": tuple(images.GetImageUpload(_image(NORTH, one)) for one in (DIGEST, UNKNOWN)),
        "upload": tuple(images.UploadImage(_upload(NORTH, one)) for one in (DIGEST, UNKNOWN)),
        "classify": tuple(
            api.ClassifySlide(s.ClassifySlideRequest(parent=one)) for one in (NORTH, "laboratories/nowhere")
        ),
    }


async def _first(stream: Any) -> Any:
    async for response in stream:
        return response
    return None


async def _answer(call: Any) -> tuple[Any, ...]:
    """All that a client gets to see of a refusal."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    error = refused.value
    return error.code(), error.details(), tuple(error.trailing_metadata() or ()), tuple(error.initial_metadata() or ())


async def _all_answers(two: Two) -> dict[str, tuple[Any, Any]]:
    questions = _questions(two.south, two.batch)
    return {what: (await _answer(one), await _answer(other)) for what, (one, other) in questions.items()}


async def test_what_another_laboratory_has_answers_like_what_nobody_has(two: Two) -> None:
    for what, (there, missing) in (await _all_answers(two)).items():
        assert there[0] is grpc.StatusCode.PERMISSION_DENIED, what
        assert there == missing, what


async def test_a_foreign_name_is_refused_without_a_look_at_store_and_queue(two: Two, own_redis: EmbeddedRedis) -> None:
    """With both of them gone the answer is the same, and so is the way to it."""
    before = await _all_answers(two)
    await own_redis.stop()
    shutil.rmtree(two.stack.store_url)
    with pytest.raises(grpc.aio.AioRpcError):
        await two.north[0].CreateSlideBatch(request(3, batch_id="another", parent=NORTH))
    assert await _all_answers(two) == before


async def test_a_laboratory_lists_its_own_batches_only(two: Two) -> None:
    mine = await two.south[0].CreateSlideBatch(request(2, parent=SOUTH))
    listed = await two.south[0].ListSlideBatches(s.ListSlideBatchesRequest(parent=SOUTH))
    assert [batch.name for batch in listed.slide_batches] == [mine.name]
    everywhere = await _answer(two.south[0].ListSlideBatches(s.ListSlideBatchesRequest(parent="laboratories/-")))
    assert everywhere[0] is grpc.StatusCode.PERMISSION_DENIED


async def test_who_belongs_to_two_laboratories_sees_each_by_its_name(two: Two) -> None:
    assert (await two.both[0].GetSlideBatch(s.GetSlideBatchRequest(name=two.batch.name))).name == two.batch.name
    listed = await two.both[0].ListSlideBatches(s.ListSlideBatchesRequest(parent=SOUTH))
    assert not listed.slide_batches


async def test_request_ids_and_batch_ids_of_another_laboratory_are_free(two: Two) -> None:
    request_id = str(uuid.uuid4())
    first = await two.north[0].CreateSlideBatch(request(2, request_id=request_id, parent=NORTH))
    second = await two.south[0].CreateSlideBatch(request(5, request_id=request_id, parent=SOUTH))
    assert first.name.rpartition("/")[2] != second.name.rpartition("/")[2]
    same = await two.south[0].CreateSlideBatch(request(1, batch_id="of-the-north", parent=SOUTH))
    assert same.name == f"{SOUTH}/slideBatches/of-the-north"


async def test_an_image_of_another_laboratory_is_unknown_by_its_digest(two: Two) -> None:
    status = (await two.south[1].GetImageUpload(_image(SOUTH, DIGEST))).status
    assert (status.complete, status.next_offset) == (False, 0)
    assert not (await two.south[1].UploadImage(_upload(SOUTH))).already_known
    assert (await two.south[1].UploadImage(_upload(SOUTH))).already_known


async def test_a_page_token_of_another_laboratory_is_no_page_token(two: Two) -> None:
    await two.north[0].CreateSlideBatch(request(1, parent=NORTH))
    page = await two.north[0].ListSlideBatches(s.ListSlideBatchesRequest(parent=NORTH, page_size=1))
    assert page.next_page_token
    mine = s.ListSlideBatchesRequest(parent=SOUTH, page_size=1, page_token=page.next_page_token)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await two.south[0].ListSlideBatches(mine)
    assert from_rpc_error(refused.value).reason is Reason.INVALID_PAGE_TOKEN


async def test_a_full_queue_does_not_tell_how_many_slides_others_have_in_it(two: Two) -> None:
    await two.stack.restart(max_queued_slides=4)
    api = Bearing(two.stack.api, two.tokens["lis-south"])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await api.CreateSlideBatch(request(2, parent=SOUTH))
    error = from_rpc_error(refused.value)
    assert error.reason is Reason.QUEUE_FULL
    assert not any(character.isdigit() for character in error.message)
    assert error.metadata == {}


async def test_a_manifest_file_of_another_laboratory_is_denied_whether_or_not_it_is_there(two: Two) -> None:
    scans = two.stack.folder / "scans"
    for laboratory in ("north", "south"):
        (scans / laboratory).mkdir(parents=True)
        (scans / laboratory / "m.jsonl").write_text('{"slideId": "A-1", "images": [{"uri": "file:///a.png"}]}\n')
    await two.stack.restart(manifest_roots=(f"{scans}/{{laboratory}}",))
    api = Bearing(two.stack.api, two.tokens["lis-south"])

    def create(uri: str) -> Any:
        return api.CreateSlideBatch(request(slides=[], manifest_uri=uri, parent=SOUTH))

    assert (await create(f"{scans}/south/m.jsonl")).completion_stats.total_count == 1
    there, missing = [await _answer(create(f"{scans}/north/{name}.jsonl")) for name in ("m", "none")]
    assert there == missing
    assert there[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_watch_ends_when_the_laboratory_is_not_its_callers_any_more(two: Two) -> None:
    await two.stack.restart(heartbeat_s=0.02)
    api = Bearing(two.stack.api, two.tokens["lis-north"])
    watch = aiter(api.WatchSlideBatch(s.WatchSlideBatchRequest(name=two.batch.name)))
    await anext(watch)
    file = two.editor.read()
    moved = [p.model_copy(update={"laboratories": ("south",)}) for p in file.principals]
    two.editor.path.write_bytes(file.model_copy(update={"principals": tuple(moved)}).to_yaml())

    async def refusal() -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            async for _ in watch:
                pass
        return ended.value

    error = await asyncio.wait_for(refusal(), HANGS_S)
    assert from_rpc_error(error).reason is Reason.PERMISSION_DENIED


async def test_metrics_name_neither_laboratories_nor_callers(two: Two) -> None:
    await _all_answers(two)
    assert two.stack.app is not None
    shown = generate_latest(two.stack.app.metrics.registry).decode()
    assert 'code="PERMISSION_DENIED",method="/gramserve.v1.SlideBatchService/GetSlideBatch"' in shown
    for name in ("north", "south", "lis-"):
        assert name not in shown
