"""How many calls a server answers at once, of all callers and of one, and how long a stream may keep it waiting."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from grpc_status import rpc_status

from gramserve.access.principal import ANYONE, current
from gramserve.errors import Exhausted, GramserveError, Reason, Unavailable
from gramserve.rpc.handlers import Continuation, Handler, behaviour_of, with_behaviour
from gramserve.rpc.status import to_status
from gramserve.settings import SharedSettings

LEAST_BYTES_PER_S = 1024
"""A stream that sends less over time is held open for its own sake."""

_RETRY_S = 1.0
_UNLIMITED = ("/grpc.health.v1.Health/Check",)  # who looks whether a full server lives must get an answer
_HEALTH = "/grpc.health."
_OTHERS = (_HEALTH, "/grpc.reflection.")


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Calls at once: `calls` of all callers together and `calls_per_caller`; streams of answers count as `watches`.

    `watches_per_caller` of them are one caller's. A stream of requests may keep the server waiting for `idle_s` seconds
    at a time, and altogether for one second more with each KiB that it brought. 0: no limit.
    """

    calls: int = 0
    calls_per_caller: int = 0
    watches: int = 0
    watches_per_caller: int = 0
    idle_s: float = 0.0

    @property
    def transport_calls(self) -> int | None:
        """What gRPC itself may let in: more than all of these, so that who is refused mostly hears the reason."""
        return 2 * (self.calls + self.watches) if self.calls and self.watches else None


def call_limits(settings: SharedSettings) -> CallLimits:
    """The limits in the settings of a service."""
    return CallLimits(
        calls=settings.max_calls,
        calls_per_caller=settings.max_calls_per_caller,
        watches=settings.max_watches,
        watches_per_caller=settings.max_watches_per_caller,
        idle_s=settings.stream_idle_s,
    )


class CallLimiter(grpc.aio.ServerInterceptor):
    """Refuses calls over the limits with TOO_MANY_CALLS, and ends idle streams with STREAM_IDLE.

    A caller is a principal, or an address where callers are not told apart: so it belongs behind what sets the
    principal. `monotonic` gives seconds.
    """

    def __init__(self, limits: CallLimits, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._monotonic = monotonic
        self._calls: Counter[str] = Counter()
        self._watches: Counter[str] = Counter()
        self._health: Counter[str] = Counter()  # apart: whoever likes may watch it
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Continuation,
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Wrap the handler of one RPC, whichever of the four kinds it is."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in _UNLIMITED:
            return handler
        if method not in self._wrapped:
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Handler) -> Handler:
        behaviour, requests, typed = behaviour_of(handler), handler.request_streaming, not method.startswith(_OTHERS)
        if not handler.response_streaming:
            return with_behaviour(handler, self._unary(behaviour, requests=requests, typed=typed))
        places = self._health if method.startswith(_HEALTH) else self._watches
        return with_behaviour(handler, self._stream(behaviour, places, requests=requests, typed=typed))

    def _unary(self, behaviour: Any, *, requests: bool, typed: bool) -> Any:
        limits = self._limits

        async def answer(request: Any, context: Any) -> Any:
            try:
                with _place(self._calls, _caller(context), limits.calls, limits.calls_per_caller, "calls"):
                    return await behaviour(self._awake(request) if requests else request, context)
            except GramserveError as error:
                await _refuse(error, context, typed=typed)

        return answer

    def _stream(self, behaviour: Any, places: Counter[str], *, requests: bool, typed: bool) -> Any:
        limits = self._limits

        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                with _place(places, _caller(context), limits.watches, limits.watches_per_caller, "watches"):
                    answers = behaviour(self._awake(request) if requests else request, context)
                    if inspect.isawaitable(answers):  # health writes to the context itself
                        await answers
                        return
                    async for response in answers:
                        yield response
            except GramserveError as error:
                await _refuse(error, context, typed=typed)

        return answer

    async def _awake(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The messages of a stream; raises Unavailable (STREAM_IDLE) when it keeps us waiting for too long.

        Only the time of waiting counts: how long a message is worked on is not the client's doing.
        """
        idle_s = self._limits.idle_s
        if not idle_s:
            async for message in requests:
                yield message
            return
        left_s, messages = idle_s, requests.__aiter__()
        while True:
            began_s = self._monotonic()
            try:
                async with asyncio.timeout(min(left_s, idle_s)):
                    message = await anext(messages)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Unavailable(
                    Reason.STREAM_IDLE, "the stream brought too little for too long; go on anew", retry_after_s=_RETRY_S
                ) from None
            left_s -= self._monotonic() - began_s
            left_s = max(left_s, 0.0) + message.ByteSize() / LEAST_BYTES_PER_S
            yield message


@contextmanager
def _place(taken: Counter[str], caller: str, most: int, most_of_one: int, what: str) -> Iterator[None]:
    """One of the places for calls, for as long as the block runs; raises Exhausted (TOO_MANY_CALLS)."""
    if most and taken.total() >= most:
        raise _too_many(f"the service answers {most} {what} at once, of all callers together")
    if most_of_one and taken[caller] >= most_of_one:
        raise _too_many(f"the service answers {most_of_one} {what} of one caller at once")
    taken[caller] += 1
    try:
        yield
    finally:
        taken[caller] -= 1
        if not taken[caller]:
            del taken[caller]


def _too_many(what: str) -> Exhausted:
    return Exhausted(Reason.TOO_MANY_CALLS, f"{what}; try again when one has ended", retry_after_s=_RETRY_S)


def _caller(context: Any) -> str:
    """The principal, or where none is known the address without its port."""
    principal = current()
    if principal is not ANYONE:
        return f"principal {principal.name}"
    peer: str = context.peer()
    return peer.rpartition(":")[0] or peer


async def _refuse(error: GramserveError, context: Any, *, typed: bool) -> NoReturn:
    """Ours are turned into a status further out; health and reflection pass there untouched."""
    if typed:
        raise error
    await context.abort_with_status(rpc_status.to_status(to_status(error)))
    raise AssertionError("abort_with_status always raises")
