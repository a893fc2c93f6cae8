"""A span around every RPC with one answer; the trace of a caller goes on, and what the RPC makes goes on with it."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from gramserve.rpc.handlers import Continuation, Handler, behaviour_of, with_behaviour
from gramserve.tracing import Tracer, enter

TRACEPARENT = "traceparent"


class Traced(grpc.aio.ServerInterceptor):
    """Watches and other streams of answers have no span: they last as long as somebody listens."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> Handler | None:
        """Wrap the handler of one RPC."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or handler.response_streaming or method.startswith("/grpc."):
            return handler
        if method not in self._wrapped:  # the service's own methods: there are few of them
            self._wrapped[method] = with_behaviour(handler, self._traced(method, behaviour_of(handler)))
        return self._wrapped[method]

    def _traced(self, method: str, behaviour: Any) -> Any:
        service, _, name = method.lstrip("/").rpartition("/")

        async def answer(request: Any, context: Any) -> Any:
            span = self._tracer.receive(f"{service}/{name}", _parent(context))
            span.set(rpc__system="grpc", rpc__service=service, rpc__method=name)
            enter(span)
            failed = "CANCELLED"
            try:
                response = await behaviour(request, context)
                failed = ""
            except grpc.aio.AbortError:
                failed = _code(context)
                raise
            finally:
                span.end(failed=failed)
            return response

        return answer


def _parent(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == TRACEPARENT:
            return str(value)
    return ""


def _code(context: Any) -> str:
    code = context.code()
    return str(getattr(code, "name", "")) or "UNKNOWN"
