"""Whatever can never work is refused at once, by name, and leaves nothing behind."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from gramserve.errors import Reason
from gramserve.v1 import slide_batch_pb2 as b
from gramserve.v1 import slide_batch_service_pb2 as s
from tests.gateway.stack import LAB, Stack, new_request_id, refused, request, slides


def slide(**fields: Any) -> b.SlideSource:
    return b.SlideSource(**{"slide_id": "a", "images": [b.Image(uri="/data/1.png")], **fields})


BAD: dict[str, tuple[dict[str, Any], Reason, str]] = {
    "zero slides": ({"slides": []}, Reason.NO_SLIDES, "slide_batch.slides"),
    "a slide_id twice": (
        {"slides": [*slides(3), slide(slide_id="S-00001")]},
        Reason.DUPLICATE_SLIDE_ID,
        "slide_batch.slides[3].slide_id",
    ),
    "no slide_id": ({"slides": [slide(slide_id="")]}, Reason.INVALID_FIELD, "slide_batch.slides[0].slide_id"),
    "a long slide_id": (
        {"slides": [slide(slide_id="x" * 129)]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].slide_id",
    ),
    "a control character": (
        {"slides": [slide(slide_id="a\nb")]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].slide_id",
    ),
    "no images": ({"slides": [slide(images=[])]}, Reason.INVALID_FIELD, "slide_batch.slides[0].images"),
    "too many images": (
        {"slides": [slide(images=[b.Image(uri="/a")] * 1001)]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].images",
    ),
    "an image of nothing": (
        {"slides": [slide(images=[b.Image()])]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].images[0]",
    ),
    "no digest": (
        {"slides": [slide(images=[b.Image(sha256="../north")])]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].images[0].sha256",
    ),
    "an empty uri": (
        {"slides": [slide(images=[b.Image(uri="")])]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].images[0].uri",
    ),
    "a bad content_sha256": (
        {"slides": [slide(images=[b.Image(uri="/a", content_sha256="AB")])]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].images[0].content_sha256",
    ),
    "too much inline": (
        {"slides": [slide(images=[b.Image(content=bytes((1 << 20) + 1))])]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].images[0].content",
    ),
    "a long specimen": (
        {"slides": [slide(specimen_type="x" * 64)]},
        Reason.INVALID_FIELD,
        "slide_batch.slides[0].specimen_type",
    ),
    "10,001 slides inline": ({"slides": slides(10_001)}, Reason.TOO_MANY_SLIDES, "slide_batch.slides"),
    "slides and a manifest": (
        {"slides": slides(1), "manifest_uri": "/a"},
        Reason.INVALID_FIELD,
        "slide_batch.manifest_uri",
    ),
    "a share above 1": ({"max_failed_ratio": 1.5}, Reason.INVALID_FIELD, "slide_batch.max_failed_ratio"),
    "no share": ({"max_failed_ratio": float("nan")}, Reason.INVALID_FIELD, "slide_batch.max_failed_ratio"),
    "an unknown priority": ({"priority": 9}, Reason.INVALID_FIELD, "slide_batch.priority"),
    "too many annotations": (
        {"annotations": {str(i): "" for i in range(65)}},
        Reason.INVALID_FIELD,
        "slide_batch.annotations",
    ),
    "a past deadline": (
        {"deliver_by": Timestamp(seconds=1_700_000_000)},
        Reason.DEADLINE_PASSED,
        "slide_batch.deliver_by",
    ),
    "no time": ({"deliver_by": Timestamp(seconds=1, nanos=-5)}, Reason.INVALID_FIELD, "slide_batch.deliver_by"),
    "a bad model name": ({"model": "Gram!"}, Reason.INVALID_FIELD, "slide_batch.model"),
    "a laboratory with capitals": ({"parent": "laboratories/North"}, Reason.INVALID_FIELD, "parent"),
    "a laboratory that climbs": ({"parent": "laboratories/.."}, Reason.INVALID_FIELD, "parent"),
    "a short batch id": ({"batch_id": "abc"}, Reason.INVALID_FIELD, "slide_batch_id"),
    "a request_id that is no UUID4": ({"request_id": "7"}, Reason.INVALID_FIELD, "request_id"),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_create_is_refused_with(stack: Stack, name: str) -> None:
    fields, reason, field = BAD[name]
    code, error = await refused(stack.create(**fields))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason is reason
    assert [where for where, _ in error.violations] == [field]
    assert await stack.objects.folders("batches") == []
    assert sum(vars_of(await stack.queue.depth())) == 0


def vars_of(depth: Any) -> tuple[int, ...]:
    return (depth.ready_stat, depth.ready_routine, depth.leased, depth.delayed)


async def test_all_wrong_fields_are_named_at_once_and_none_of_their_values(stack: Stack) -> None:
    bad = [slide(slide_id="MRN-4711"), slide(slide_id="MRN-4711"), slide(slide_id="b", images=[])]
    code, error = await refused(stack.create(slides=bad))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason is Reason.INVALID_FIELD
    assert [field for field, _ in error.violations] == [
        "slide_batch.slides[1].slide_id",
        "slide_batch.slides[2].images",
    ]
    assert "MRN" not in error.message + str(error.violations)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("models/none", Reason.UNKNOWN_MODEL),
        ("models/gram/versions/7", Reason.UNKNOWN_MODEL_VERSION),
        ("models/gram/versions/shadow", Reason.UNKNOWN_MODEL_VERSION),
    ],
)
async def test_an_unknown_model_is_not_found(stack: Stack, model: str, reason: Reason) -> None:
    code, error = await refused(stack.create(model=model))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, reason)


async def test_a_message_over_the_limit_is_refused_by_name(stack: Stack) -> None:
    many = [b.Image(content=bytes(1 << 20))] * 33
    code, error = await refused(stack.create(slides=[slide(images=many)]))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert error.reason is Reason.MESSAGE_TOO_LARGE


def manifest(folder: Path, text: str, name: str = "m.jsonl") -> str:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


GOOD_LINE = '{"slide_id": "a", "images": [{"uri": "/data/1.png"}]}\n'


@pytest.mark.parametrize("way", ["outside", "climbing", "link", "passwd", "http", "folder", "store"])
async def test_a_manifest_outside_the_allowed_folders_is_denied(stack: Stack, way: str) -> None:
    allowed, outside = stack.folder / "manifests", manifest(stack.folder / "elsewhere", GOOD_LINE)
    allowed.mkdir()
    (allowed / "link").symlink_to(outside)
    (allowed / "folder").mkdir()
    uri = {
        "outside": outside,
        "climbing": f"{allowed}/../elsewhere/m.jsonl",
        "link": f"{allowed}/link",
        "passwd": "file:///etc/passwd",
        "http": "http://example.org/m.jsonl",
        "folder": f"{allowed}/folder",
        "store": "store://slides/south/abc",
    }[way]
    code, error = await refused(stack.create(slides=[], manifest_uri=uri))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.REFERENCE_DENIED)
    assert str(stack.folder) not in error.message


async def test_a_manifest_that_is_not_there_is_not_found(stack: Stack) -> None:
    (stack.folder / "manifests").mkdir()
    code, error = await refused(stack.create(slides=[], manifest_uri=f"{stack.folder}/manifests/none.jsonl"))
    assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.REFERENCE_NOT_FOUND)


@pytest.mark.parametrize(
    ("text", "reason", "field"),
    [
        ("", Reason.NO_SLIDES, "slide_batch.manifest_uri"),
        (GOOD_LINE + "{]\n", Reason.INVALID_FIELD, "slide_batch.manifest_uri line 2"),
        (GOOD_LINE + "\n" + GOOD_LINE, Reason.DUPLICATE_SLIDE_ID, "slide_batch.manifest_uri line 3.slide_id"),
        ('{"slide": 1}\n', Reason.INVALID_FIELD, "slide_batch.manifest_uri line 1"),
        ("[" * 5000 + "\n", Reason.INVALID_FIELD, "slide_batch.manifest_uri line 1"),
        ("\x00\x01\n", Reason.INVALID_FIELD, "slide_batch.manifest_uri line 1"),
    ],
)
async def test_a_manifest_with_bad_lines_is_refused(stack: Stack, text: str, reason: Reason, field: str) -> None:
    uri = manifest(stack.folder / "manifests", text)
    code, error = await refused(stack.create(slides=[], manifest_uri=uri))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, reason)
    assert error.violations[0][0] == field


async def test_a_manifest_with_too_many_lines_or_bytes_is_refused(stack: Stack) -> None:
    uri = manifest(stack.folder / "manifests", GOOD_LINE * 3)
    await stack.restart(max_manifest_slides=2)
    code, error = await refused(stack.create(slides=[], manifest_uri=uri))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.TOO_MANY_SLIDES)
    await stack.restart(max_manifest_bytes=50)
    code, error = await refused(stack.create(slides=[], manifest_uri=uri))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.MESSAGE_TOO_LARGE)


async def test_a_manifest_that_cannot_be_opened_is_denied_not_waited_for(stack: Stack) -> None:
    (stack.folder / "manifests").mkdir()
    os.mkfifo(stack.folder / "manifests" / "pipe")
    code, error = await refused(stack.create(slides=[], manifest_uri=f"{stack.folder}/manifests/pipe"))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.REFERENCE_DENIED)


@pytest.mark.parametrize(
    "name", ["", "night", "laboratories/north/slideBatches/", f"{LAB}/slideBatches/a/b", "x/y/z/w"]
)
async def test_a_name_that_is_none_is_refused_everywhere(stack: Stack, name: str) -> None:
    for call in (
        stack.api.GetSlideBatch(s.GetSlideBatchRequest(name=name)),
        stack.api.ListSlides(s.ListSlidesRequest(parent=name)),
        stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=name)),
        stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=name)),
        stack.watch(name),
    ):
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)


async def test_an_unknown_batch_is_not_found_everywhere(stack: Stack) -> None:
    name = f"{LAB}/slideBatches/none"
    for call in (
        stack.get(name),
        stack.api.ListSlides(s.ListSlidesRequest(parent=name)),
        stack.api.CancelSlideBatch(s.CancelSlideBatchRequest(name=name)),
        stack.api.RetrySlideBatch(s.RetrySlideBatchRequest(name=name)),
        stack.watch(name),
    ):
        code, error = await refused(call)
        assert (code, error.reason) == (grpc.StatusCode.NOT_FOUND, Reason.UNKNOWN_BATCH)


async def test_a_repeat_is_answered_although_its_deadline_has_passed_since(stack: Stack) -> None:
    asked = request(2, request_id=new_request_id(), deliver_by=Timestamp(seconds=int(time.time()) + 60))
    first = await stack.api.CreateSlideBatch(asked)
    stack.clock.ahead_s = 120
    again = await stack.api.CreateSlideBatch(asked)
    assert again.name == first.name
