"""Uploading images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import grpc
import pytest

from gramserve.errors import Reason
from gramserve.store import layout
from gramserve.v1 import image_service_pb2 as i
from gramserve.v1.upload_pb2 import UploadHeader, UploadStatus
from tests.gateway.stack import LAB, Stack, refused

MIB = 1 << 20
Requests = Iterator[i.UploadImageRequest]


def messages(data: bytes, *, sha256: str = "", size: int = -1, offset: int = 0, parent: str = LAB) -> Requests:
    sha256, size = sha256 or hashlib.sha256(data).hexdigest(), len(data) if size < 0 else size
    yield i.UploadImageRequest(header=UploadHeader(parent=parent, sha256=sha256, size_bytes=size, offset=offset))
    for start in range(offset, len(data), MIB):
        yield i.UploadImageRequest(chunk=data[start : start + MIB])


async def status(stack: Stack, sha256: str, parent: str = LAB) -> UploadStatus:
    answer = await stack.images.GetImageUpload(i.GetImageUploadRequest(parent=parent, sha256=sha256))
    found: UploadStatus = answer.status
    return found


async def test_an_uploaded_image_lies_under_its_digest(stack: Stack) -> None:
    data = bytes(range(256)) * 5000
    sha256 = hashlib.sha256(data).hexdigest()
    answer = await stack.images.UploadImage(messages(data))
    assert (answer.sha256, answer.size_bytes, answer.already_known) == (sha256, len(data), False)
    assert await stack.objects.get(layout.slide_path("north", sha256)) == data
    assert await status(stack, sha256) == UploadStatus(sha256=sha256, complete=True, next_offset=len(data))
    assert stack.counted("upload_bytes") == len(data)


async def test_known_bytes_are_not_sent_twice(stack: Stack) -> None:
    await stack.images.UploadImage(messages(b"pixels"))
    header_only = [next(messages(b"pixels"))]
    answer = await stack.images.UploadImage(iter(header_only))
    assert (answer.size_bytes, answer.already_known) == (6, True)


async def test_knowing_a_digest_is_no_right_to_another_laboratorys_image(stack: Stack) -> None:
    await stack.images.UploadImage(messages(b"pixels"))
    sha256 = hashlib.sha256(b"pixels").hexdigest()
    assert not (await status(stack, sha256, "laboratories/south")).complete
    answer = await stack.images.UploadImage(messages(b"pixels", parent="laboratories/south"))
    assert not answer.already_known


async def test_a_broken_upload_goes_on_where_its_kept_parts_end(stack: Stack) -> None:
    data = hashlib.shake_128(b"seed").digest(19 * MIB)
    sha256 = hashlib.sha256(data).hexdigest()
    _, error = await refused(stack.images.UploadImage(messages(data[: 17 * MIB], sha256=sha256, size=len(data))))
    assert error.reason is Reason.SIZE_MISMATCH
    kept = await status(stack, sha256)
    assert (kept.complete, kept.next_offset) == (False, 16 * MIB)
    _, error = await refused(stack.images.UploadImage(messages(data, offset=17 * MIB)))
    assert error.reason is Reason.WRONG_OFFSET
    answer = await stack.images.UploadImage(messages(data, offset=kept.next_offset))
    assert answer.size_bytes == len(data)
    assert await stack.objects.get(layout.slide_path("north", sha256)) == data


async def test_bytes_with_another_digest_are_refused_and_not_kept(stack: Stack) -> None:
    code, error = await refused(stack.images.UploadImage(messages(b"pixels", sha256="0" * 64)))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.CHECKSUM_MISMATCH)
    assert await stack.objects.size(layout.slide_path("north", "0" * 64)) is None


async def test_more_bytes_than_announced_are_refused(stack: Stack) -> None:
    _, error = await refused(stack.images.UploadImage(messages(b"pixels", size=3)))
    assert error.reason is Reason.SIZE_MISMATCH


async def test_an_upload_over_the_limit_is_refused_before_its_bytes(stack: Stack) -> None:
    await stack.restart(max_upload_bytes=10)
    code, error = await refused(stack.images.UploadImage(messages(b"12345678901")))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.UPLOAD_TOO_LARGE)


@pytest.mark.parametrize(
    "bad",
    [
        [i.UploadImageRequest(chunk=b"x")],
        [],
        [next(messages(b"x", parent="north"))],
        [next(messages(b"x", sha256="ABC"))],
        [next(messages(b"x", offset=-1))],
        [next(messages(b"x")), next(messages(b"x"))],
    ],
)
async def test_an_upload_that_is_none_is_refused(stack: Stack, bad: list[i.UploadImageRequest]) -> None:
    code, error = await refused(stack.images.UploadImage(iter(bad)))
    assert (code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, Reason.INVALID_FIELD)


async def test_a_chunk_over_a_mebibyte_is_refused(stack: Stack) -> None:
    data = bytes(MIB + 1)
    bad = [next(messages(data)), i.UploadImageRequest(chunk=data)]
    _, error = await refused(stack.images.UploadImage(iter(bad)))
    assert error.reason is Reason.MESSAGE_TOO_LARGE
