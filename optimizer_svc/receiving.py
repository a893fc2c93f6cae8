"""One upload from its stream of messages into the store."""

from __future__ import annotations

from collections.abc import AsyncIterator

from gramserve.errors import InvalidInput, Reason
from gramserve.metrics import Metrics
from gramserve.store import layout
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.uploads import Uploads
from gramserve.v1 import optimizer_service_pb2, upload_pb2
from optimizer_svc.names import invalid
from optimizer_svc.optimizations import SCOPE

MAX_CHUNK_BYTES = 1 << 20


async def receive(
    messages: AsyncIterator[optimizer_service_pb2.UploadFileRequest],
    uploads: Uploads,
    metrics: Metrics,
    audit: AuditLog,
) -> optimizer_service_pb2.UploadFileResponse:
    """Stores the file; a known one is answered at the header, without reading on.

    Raises InvalidInput: INVALID_FIELD, UPLOAD_TOO_LARGE, WRONG_OFFSET, SIZE_MISMATCH, CHECKSUM_MISMATCH.
    """
    header = await _header(messages)
    path = layout.checkpoint_path(header.sha256)
    upload = await uploads.open(SCOPE, header.sha256, path, offset=header.offset, size_bytes=header.size_bytes)
    already_known = upload.complete
    if not already_known:
        async for message in messages:
            if message.WhichOneof("data") != "chunk":
                raise invalid([("header", "must be the first message and no other")])
            if len(message.chunk) > MAX_CHUNK_BYTES:
                raise InvalidInput(Reason.MESSAGE_TOO_LARGE, f"a chunk has at most {MAX_CHUNK_BYTES} bytes")
            await upload.write(message.chunk)
            metrics.count("upload_bytes", len(message.chunk))
    await audit.record(Action.FILE_UPLOAD, f"files/{header.sha256}", bytes=upload.next_offset)
    return optimizer_service_pb2.UploadFileResponse(
        sha256=header.sha256, size_bytes=await upload.finish(), already_known=already_known
    )


async def _header(messages: AsyncIterator[optimizer_service_pb2.UploadFileRequest]) -> upload_pb2.UploadHeader:
    async for message in messages:
        if message.WhichOneof("data") != "header":
            break
        if message.header.parent:
            raise invalid([("header.parent", "must be empty: files of optimizations belong to no laboratory")])
        if message.header.size_bytes < 0:
            raise invalid([("header.size_bytes", "must not be negative")])
        return message.header
    raise invalid([("header", "must be the first message")])
