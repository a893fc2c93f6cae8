"""Uploading under a digest: known bytes are not sent again, a broken upload goes on where it stopped."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import grpc

from gramserve.client.content import Content
from gramserve.client.patience import Patience
from gramserve.errors import Reason, Unavailable
from gramserve.rpc.status import from_rpc_error
from gramserve.v1.upload_pb2 import UploadHeader, UploadStatus


async def upload(
    content: Content,
    *,
    parent: str,
    patience: Patience,
    status: Callable[[], Awaitable[UploadStatus]],
    send: Callable[[AsyncIterator[UploadHeader | bytes]], Awaitable[None]],
) -> str:
    """Brings `content` to a service and returns its digest. Raises GramserveError.

    `status` asks how far the upload has come; `send` sends the header and then the chunks. Both raise grpc.RpcError.
    """
    backoff = patience.backoff()
    reached = -1
    while True:
        try:
            known = await status()
            if known.complete:
                return content.sha256
            if known.next_offset > reached:
                backoff.reset()
                reached = known.next_offset
            await send(_messages(content, parent, known.next_offset))
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
            if error.reason is Reason.WRONG_OFFSET:
                # Somebody else uploads the same bytes: ask how far they are.
                error = Unavailable(error.reason, error.message)
            await backoff.wait_after(error)
        else:
            return content.sha256


async def _messages(content: Content, parent: str, offset: int) -> AsyncIterator[UploadHeader | bytes]:
    yield UploadHeader(parent=parent, sha256=content.sha256, size_bytes=content.size_bytes, offset=offset)
    async for chunk in content.chunks(offset):
        yield chunk
