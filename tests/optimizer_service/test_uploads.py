"""Bringing checkpoints and data to the optimizer."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gramserve.errors import Reason
from gramserve.v1 import optimizer_service_pb2, upload_pb2
from optimizer_svc.receiving import MAX_CHUNK_BYTES
from tests.optimizer_service.conftest import Bench, Caller, answer, refused

FILE = b"0123456789" * 10
SHA256 = hashlib.sha256(FILE).hexdigest()


def _header(**fields: Any) -> Any:
    return optimizer_service_pb2.UploadFileRequest(
        header=upload_pb2.UploadHeader(**{"sha256": SHA256, "size_bytes": len(FILE), **fields})
    )


def _chunk(data: bytes) -> Any:
    return optimizer_service_pb2.UploadFileRequest(chunk=data)


async def _send(caller: Caller, *messages: Any) -> Any:
    async def stream() -> AsyncIterator[Any]:
        for message in messages:
            yield message

    return await answer(caller.stub.UploadFile(stream()))


async def _status(caller: Caller, sha256: str = SHA256) -> Any:
    request = optimizer_service_pb2.GetFileUploadRequest(sha256=sha256)
    return (await answer(caller.stub.GetFileUpload(request))).status


async def test_an_uploaded_file_is_known_by_its_digest(bench: Bench, caller: Caller) -> None:
    assert not (await _status(caller)).complete
    sent = await caller.upload(FILE)
    assert (sent.sha256, sent.size_bytes, sent.already_known) == (SHA256, len(FILE), False)
    status = await _status(caller)
    assert status.complete
    assert status.next_offset == len(FILE)
    assert await bench.store.get(f"checkpoints/{SHA256}") == FILE


async def test_known_bytes_are_not_sent_twice(caller: Caller) -> None:
    await caller.upload(FILE)
    again = await _send(caller, _header())
    assert again.already_known
    assert again.size_bytes == len(FILE)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], Reason.INVALID_FIELD),
        ([_chunk(FILE)], Reason.INVALID_FIELD),
        ([_header(), _header()], Reason.INVALID_FIELD),
        ([_header(sha256="x")], Reason.INVALID_FIELD),
        ([_header(sha256=SHA256.upper())], Reason.INVALID_FIELD),
        ([_header(parent="laboratories/x")], Reason.INVALID_FIELD),
        ([_header(size_bytes=-1)], Reason.INVALID_FIELD),
        ([_header(sha256="0" * 64), _chunk(FILE)], Reason.CHECKSUM_MISMATCH),
        ([_header(), _chunk(FILE[1:])], Reason.SIZE_MISMATCH),
        ([_header(), _chunk(FILE), _chunk(b"x")], Reason.SIZE_MISMATCH),
        ([_header(offset=10), _chunk(FILE[10:])], Reason.WRONG_OFFSET),
        ([_header(size_bytes=2000)], Reason.UPLOAD_TOO_LARGE),
        ([_header(), _chunk(b"x" * (MAX_CHUNK_BYTES + 1))], Reason.MESSAGE_TOO_LARGE),
    ],
)
async def test_an_upload_that_is_wrong_is_refused_by_name(bench: Bench, messages: list[Any], reason: Reason) -> None:
    async with bench.service(max_upload_bytes=1000) as caller:
        assert (await refused(_send(caller, *messages))).reason is reason
        assert not (await _status(caller)).complete


async def test_a_laboratory_called_optimizer_does_not_share_the_uploads(bench: Bench, caller: Caller) -> None:
    await bench.store.put(f"uploads/optimizer/{SHA256}/{0:016d}", FILE[:10])
    assert (await _status(caller)).next_offset == 0
