"""ImageService: uploads of images into the store."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

from gateway.names import invalid, parse_laboratory
from gramserve.errors import InvalidInput, Reason
from gramserve.metrics import Metrics
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.layout import slide_path
from gramserve.store.uploads import Uploads
from gramserve.v1 import image_service_pb2 as service
from gramserve.v1.image_service_pb2_grpc import ImageServiceServicer
from gramserve.v1.upload_pb2 import UploadHeader, UploadStatus

MAX_CHUNK_BYTES = 1 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ImageServicer(ImageServiceServicer):
    """The upload API; each method does what its rpc promises in protos/gramserve/v1/image_service.proto."""

    def __init__(self, uploads: Uploads, metrics: Metrics, audit: AuditLog) -> None:
        self._uploads = uploads
        self._audit = audit
        self._metrics = metrics

    async def UploadImage(  # noqa: D102, N802
        self, request_iterator: AsyncIterator[service.UploadImageRequest], context: Any
    ) -> service.UploadImageResponse:
        header = await _header(request_iterator)
        laboratory = parse_laboratory(header.parent, "header.parent")
        sha256 = _check_sha256(header.sha256, "header.sha256")
        if header.size_bytes < 0 or header.offset < 0:
            raise invalid("header", "has a negative size_bytes or offset")
        upload = await self._uploads.open(
            laboratory, sha256, slide_path(laboratory, sha256), offset=header.offset, size_bytes=header.size_bytes
        )
        known = upload.complete
        if not known:
            async for message in request_iterator:
                await upload.write(_chunk(message))
                self._metrics.count("upload_bytes", len(message.chunk))
        await self._audit.record(
            Action.IMAGE_UPLOAD, f"laboratories/{laboratory}/images/{sha256}", bytes=upload.next_offset
        )
        size = await upload.finish()
        return service.UploadImageResponse(sha256=sha256, size_bytes=size, already_known=known)

    async def GetImageUpload(  # noqa: D102, N802
        self, request: service.GetImageUploadRequest, context: Any
    ) -> service.GetImageUploadResponse:
        laboratory = parse_laboratory(request.parent)
        sha256 = _check_sha256(request.sha256, "sha256")
        found = await self._uploads.status(laboratory, sha256, slide_path(laboratory, sha256))
        status = UploadStatus(sha256=sha256, complete=found.complete, next_offset=found.next_offset)
        return service.GetImageUploadResponse(status=status)


async def _header(messages: AsyncIterator[service.UploadImageRequest]) -> UploadHeader:
    async for first in messages:
        if first.WhichOneof("data") == "header":
            return first.header
        break
    raise invalid("header", "must be the first message of an upload")


def _chunk(message: service.UploadImageRequest) -> bytes:
    if message.WhichOneof("data") != "chunk":
        raise invalid("header", "must be sent once, and chunks after it")
    if len(message.chunk) > MAX_CHUNK_BYTES:
        what = f"must be at most {MAX_CHUNK_BYTES} bytes"
        raise InvalidInput(Reason.MESSAGE_TOO_LARGE, f"chunk {what}", violations=[("chunk", what)])
    return message.chunk


def _check_sha256(sha256: str, field: str) -> str:
    if not _SHA256.fullmatch(sha256):
        raise invalid(field, "must be 64 lower-case hexadecimal digits")
    return sha256
