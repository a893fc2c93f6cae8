"""Uploads: known bytes are not sent, broken ones go on."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gramserve.client import GramserveClient
from gramserve.client.content import CHUNK_BYTES, Content
from gramserve.errors import Conflict, Reason, Unavailable
from gramserve.v1.image_service_pb2 import GetImageUploadResponse, UploadImageResponse
from gramserve.v1.image_service_pb2_grpc import ImageServiceServicer, add_ImageServiceServicer_to_server
from gramserve.v1.upload_pb2 import UploadStatus
from tests.client.desk import IMPATIENT, serving

BYTES = bytes(range(256)) * 4096 * 3  # three chunks
SHA256 = hashlib.sha256(BYTES).hexdigest()


@dataclass
class ImageDesk(ImageServiceServicer):
    """Keeps what arrives; breaks the first streams off as `breaks` says (bytes kept of the stream, error)."""

    breaks: list[tuple[int, Exception]] = field(default_factory=list)
    kept: bytes = b""
    headers: list[Any] = field(default_factory=list)
    largest: int = 0

    async def GetImageUpload(self, request: Any, context: Any) -> GetImageUploadResponse:
        status = UploadStatus(complete=self.kept == BYTES, next_offset=len(self.kept))
        return GetImageUploadResponse(status=status)

    async def UploadImage(self, request_iterator: AsyncIterator[Any], context: Any) -> UploadImageResponse:
        stop = self.breaks.pop(0) if self.breaks else None
        got = b""
        async for message in request_iterator:
            if message.WhichOneof("data") == "header":
                self.headers.append(message.header)
            else:
                self.largest = max(self.largest, len(message.chunk))
                got += message.chunk
            if stop is not None and len(got) >= stop[0]:
                self.kept += got[: stop[0]]
                raise stop[1]
        self.kept += got
        return UploadImageResponse(sha256=SHA256)


async def uploaded(desk: ImageDesk, image: Path | bytes = BYTES) -> str:
    async with (
        serving(lambda server: add_ImageServiceServicer_to_server(desk, server)) as target,
        GramserveClient(target, laboratory="l", patience=IMPATIENT) as client,
    ):
        return await client.upload_image(image)


async def test_bytes_arrive_in_chunks_under_their_digest(tmp_path: Path) -> None:
    path = tmp_path / "field.png"
    path.write_bytes(BYTES)
    desk = ImageDesk()
    assert await uploaded(desk, path) == SHA256
    assert desk.kept == BYTES
    assert desk.largest == CHUNK_BYTES
    (header,) = desk.headers
    assert (header.parent, header.sha256, header.size_bytes, header.offset) == (
        "laboratories/l",
        SHA256,
        len(BYTES),
        0,
    )


async def test_known_bytes_are_not_sent() -> None:
    desk = ImageDesk(kept=BYTES)
    assert await uploaded(desk) == SHA256
    assert desk.headers == []


async def test_a_broken_upload_goes_on_where_it_stopped() -> None:
    away = Unavailable(Reason.STORE_UNAVAILABLE, "away")
    desk = ImageDesk(breaks=[(CHUNK_BYTES, away), (CHUNK_BYTES, away)])
    assert await uploaded(desk) == SHA256
    assert desk.kept == BYTES
    assert [header.offset for header in desk.headers] == [0, CHUNK_BYTES, 2 * CHUNK_BYTES]


async def test_an_offset_that_somebody_else_moved_is_asked_for_again() -> None:
    desk = ImageDesk(breaks=[(0, Conflict(Reason.WRONG_OFFSET, "not there"))])
    assert await uploaded(desk) == SHA256


async def test_an_empty_file_has_no_chunks() -> None:
    content = await Content.of(b"")
    assert content.size_bytes == 0
    assert [chunk async for chunk in content.chunks(0)] == []


async def test_a_file_that_is_not_there_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        await uploaded(ImageDesk(), tmp_path / "missing.png")
