"""What happens around every RPC of every service: typed errors out, size checked, counted, logged."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import Message
from grpc_status import rpc_status

from gramserve import log
from gramserve.errors import GramserveError, InvalidInput, PermissionDenied, Reason, Unauthenticated
from gramserve.metrics import Metrics
from gramserve.rpc.handlers import Continuation, Handler, behaviour_of, with_behaviour
from gramserve.rpc.options import MAX_MESSAGE_BYTES
from gramserve.rpc.status import to_status

_HEAR_OUT_S = 1.0
_HEAR_OUT_BYTES = 16 * 2**20


class ErrorsAndMetrics(grpc.aio.ServerInterceptor):
    """Turns domain errors into statuses with details and unknown ones into INTERNAL; counts and times each RPC.

    `refused` hears the method and the error of every call that access was refused to, in the context of that call.
    """

    def __init__(
        self,
        metrics: Metrics,
        *,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        refused: Callable[[str, GramserveError], None] = lambda method, error: None,
    ) -> None:
        self._refused = refused
        self._metrics = metrics
        self._max_message_bytes = max_message_bytes
        self._log = log.get()
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of one RPC, whichever of the four kinds it is."""
        handler = await continuation(handler_call_details)
        if handler is None:  # an unknown method: grpc answers UNIMPLEMENTED
            return None
        method = handler_call_details.method
        if method.startswith("/grpc.health."):
            return handler
        if method not in self._wrapped:  # the service's own methods: there are few of them
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        behaviour = behaviour_of(handler)
        if handler.response_streaming:
            return with_behaviour(handler, self._stream(method, behaviour))
        heard = _heard_out(behaviour) if handler.request_streaming else behaviour
        return with_behaviour(handler, self._unary(method, heard))

    def _unary(self, method: str, behaviour: Any) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            started = time.perf_counter()
            try:
                self._check_size(request)
                response = await behaviour(request, context)
            except BaseException as error:
                await self._refuse(method, context, error, started)
            self._count(method, "OK", started)
            return response

        return answer

    def _stream(self, method: str, behaviour: Any) -> Any:
        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            started = time.perf_counter()
            try:
                self._check_size(request)
                async for response in behaviour(request, context):
                    yield response
            except GeneratorExit:
                self._count(method, "CANCELLED", started)
                raise
            except BaseException as error:
                await self._refuse(method, context, error, started)
            self._count(method, "OK", started)

        return answer

    def _check_size(self, request: Any) -> None:
        if isinstance(request, Message) and (size := request.ByteSize()) > self._max_message_bytes:
            raise InvalidInput(
                Reason.MESSAGE_TOO_LARGE,
                f"the message has {size} bytes, {self._max_message_bytes} are allowed; upload images instead of "
                "sending them inline, or split the batch",
            )

    def _count(self, method: str, code: str, started: float) -> None:
        self._metrics.count("rpc_requests", method=method, code=code)
        self._metrics.observe("rpc_seconds", time.perf_counter() - started, method=method)

    async def _refuse(self, method: str, context: Any, error: BaseException, started: float) -> NoReturn:
        if isinstance(error, asyncio.CancelledError | grpc.aio.AbortError):
            self._count(method, "CANCELLED", started)
            raise error
        if not isinstance(error, Exception):
            raise error
        if not isinstance(error, GramserveError):
            self._log.error("rpc failed unexpectedly", method=method, error=log.describe(error))
            error = GramserveError(Reason.INTERNAL, "a fault in gramserve; the log of the service says where")
        if isinstance(error, Unauthenticated | PermissionDenied):
            self._refused(method, error)
        status = rpc_status.to_status(to_status(error))
        self._count(method, status.code.name, started)
        await context.abort_with_status(status)
        raise AssertionError("abort_with_status always raises")


def _heard_out(behaviour: Any) -> Any:
    """`behaviour`, whose client is heard out for a second or 16 MiB when it is refused in the middle of its stream.

    grpc.aio's client calls it an INTERNAL error of its own when a message of its stream finds the call ended, and the
    reason that was sent for it is lost.
    """

    async def answer(requests: AsyncIterator[Any], context: Any) -> Any:
        try:
            return await behaviour(requests, context)
        except GramserveError:
            left = _HEAR_OUT_BYTES
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEAR_OUT_S):
                    async for request in requests:
                        left -= request.ByteSize()
                        if left < 0:
                            break
            raise

    return answer
