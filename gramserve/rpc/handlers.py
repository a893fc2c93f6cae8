"""The handler of one RPC, taken apart and made again around another behaviour: what interceptors do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import grpc.aio

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in the stubs only
Continuation: TypeAlias = "Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]]"
"""What gives an interceptor the handler of the next one; None for a method that there is not."""


def behaviour_of(handler: Handler) -> Any:
    """What the handler does: of a request, or a stream of them, and the context of the call."""
    return getattr(handler, _kind(handler))


def with_behaviour(handler: Handler, behaviour: Any) -> Handler:
    """A handler of the same kind and messages that does `behaviour`."""
    make = getattr(grpc, f"{_kind(handler)}_rpc_method_handler")
    made: Handler = make(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
    return made


def _kind(handler: Handler) -> str:
    """Which of the four kinds, as gRPC writes it: "unary_stream" has one request and a stream of answers."""
    kinds = ("stream" if streams else "unary" for streams in (handler.request_streaming, handler.response_streaming))
    return "_".join(kinds)
