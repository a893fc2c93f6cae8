"""A channel that is opened anew when the certificates change, and that adds the caller's token to each call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

from gramserve.tls.reading import Trust


@dataclass(eq=False, slots=True)
class Opened:
    """A channel and how many calls run on it; a call that nobody keeps must end, so none is kept here."""

    channel: grpc.aio.Channel
    calls: int = 0


class RenewingChannel(grpc.aio.Channel):
    """Opens channels with `open_one`, another one once `trust()` gives another object; calls go over the newest.

    Running calls end on the channel that they began on. `token()` is sent as a bearer token (RFC 6750) unless empty.
    """

    def __init__(
        self,
        open_one: Callable[[Trust | None], grpc.aio.Channel],
        *,
        trust: Callable[[], Trust | None],
        token: Callable[[], str],
    ) -> None:
        self._open_one = open_one
        self._trust = trust
        self._token = token
        self._used = trust()
        self._newest = Opened(open_one(self._used))
        self._older: set[Opened] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    def newest(self) -> Opened:
        """The channel for a call that begins now; older ones are closed when a call ends and they have none."""
        trust = self._trust()
        if trust is not self._used and not self._closed:
            self._older.add(self._newest)
            self._newest, self._used = Opened(self._open_one(trust)), trust
        return self._newest

    def tidy(self) -> None:
        """Close what is older than the newest channel and has no calls."""
        idle = [opened for opened in self._older if not opened.calls]
        if idle and not _in_a_loop():
            return  # a forgotten call ended with its event loop, and the channels with them
        for opened in idle:
            self._older.discard(opened)
            closing = asyncio.ensure_future(opened.channel.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What every call carries."""
        token = self._token()
        return (("authorization", f"Bearer {token}"),) if token else ()

    async def close(self, grace: float | None = None) -> None:
        """Close all channels; running calls are cancelled after `grace` seconds."""
        self._closed = True
        every = [opened.channel.close(grace) for opened in (*self._older, self._newest)]
        self._older.clear()
        await asyncio.gather(*every, *self._closing)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """That of the newest channel."""
        return self.newest().channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """That of the newest channel."""
        await self.newest().channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Until the newest channel is connected."""
        await self.newest().channel.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Callable(self, "unary_unary", args, kwargs)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Callable(self, "unary_stream", args, kwargs)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Callable(self, "stream_unary", args, kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return _Callable(self, "stream_stream", args, kwargs)


class _Callable:
    """One method, called on the newest channel."""

    def __init__(self, owner: RenewingChannel, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._owner = owner
        self._kind = kind
        self._args = args
        self._kwargs = kwargs
        self._opened: Opened | None = None
        self._method: Any = None

    def __call__(self, *args: Any, metadata: Any = None, **kwargs: Any) -> Any:
        opened = self._owner.newest()
        if opened is not self._opened:
            self._opened = opened
            self._method = getattr(opened.channel, self._kind)(*self._args, **self._kwargs)
        call = self._method(*args, metadata=(*(metadata or ()), *self._owner.metadata()), **kwargs)
        opened.calls += 1

        def ended(_: Any) -> None:
            opened.calls -= 1
            self._owner.tidy()

        call.add_done_callback(ended)
        return call


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
