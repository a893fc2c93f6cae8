"""One slide classified at once, however often its call has to be repeated before the deadline."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

import grpc
import grpc.aio

from gramserve.client.patience import Patience
from gramserve.errors import Conflict, DeadlineExceeded, Reason
from gramserve.rpc.status import from_rpc_error
from gramserve.v1.slide_batch_pb2 import SlideSource
from gramserve.v1.slide_batch_service_pb2 import ClassifySlideRequest
from gramserve.v1.slide_pb2 import Slide

INLINE_BYTES = 1 << 20
"""The largest field that goes inside a message; all fields of a slide together may have eight times as many bytes."""


async def inline(fields: Sequence[Path | bytes]) -> list[bytes | None]:
    """The bytes of the fields that go inside the message, None for those to be uploaded before. Raises OSError."""
    room, found = 8 * INLINE_BYTES, list[bytes | None]()
    for field in fields:
        size = len(field) if isinstance(field, bytes) else (await asyncio.to_thread(field.stat)).st_size
        if size > min(INLINE_BYTES, room):
            found.append(None)
            continue
        data = field if isinstance(field, bytes) else await asyncio.to_thread(field.read_bytes)
        room -= len(data)
        found.append(data)
    return found


async def classify(
    method: grpc.aio.UnaryUnaryMultiCallable[ClassifySlideRequest, Slide],
    slide: SlideSource,
    *,
    parent: str,
    model: str,
    annotations: Mapping[str, str],
    timeout_s: float,
    request_id: str,
    patience: Patience,
) -> Slide:
    """The slide when it has ended; see `GramserveClient.classify_slide`."""
    request = ClassifySlideRequest(
        parent=parent, slide=slide, model=model, annotations=annotations, request_id=request_id or str(uuid.uuid4())
    )
    deadline_s = patience.clock() + timeout_s
    backoff = patience.backoff()
    while True:
        left_s = deadline_s - patience.clock()
        if left_s <= 0:
            raise DeadlineExceeded(
                Reason.EXPIRED,
                f"no answer within {timeout_s:g} s; the same request_id finds the slide again",
                metadata={"request_id": request.request_id},
            )
        try:
            return await method(request, timeout=left_s)
        except grpc.RpcError as rpc_error:
            error = from_rpc_error(rpc_error)
        if isinstance(error, DeadlineExceeded):
            raise error
        if isinstance(error, Conflict) and error.reason is Reason.CANCELLED and not request_id:
            # Our own call broke, which looks like a cancel over there: the slide did not run and never will.
            request.request_id = str(uuid.uuid4())
            continue
        if patience.clock() < deadline_s:
            await backoff.wait_after(error)
