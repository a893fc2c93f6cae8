"""The messages of a child as they come, several at once where none of them is in a hurry."""

from __future__ import annotations

import asyncio
from collections import deque

from gramserve.store.codec import RecordCorrupt
from inference_svc import protocol
from inference_svc.protocol import BrokenProtocol, Message


class Frames(asyncio.Protocol):
    """The worker's end of a child's socket.

    While it is paused the kernel keeps what the child says: one wake-up then brings all of it, and nothing is lost when
    the child dies meanwhile. `broken`: the child said what is no message.
    """

    def __init__(self) -> None:
        self.broken = False
        self._transport: asyncio.Transport | None = None
        self._parser = protocol.Parser()
        self._messages: deque[Message | None] = deque()
        self._came = asyncio.Event()
        self._paused: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Keep the messages that are whole now; what is none is the end."""
        try:
            self._messages.extend(self._parser.feed(data))
        except (BrokenProtocol, RecordCorrupt):
            self.broken = True
            self.close()
            self._end()
        self._came.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The child is gone, or `close` was called."""
        self._end()
        self._came.set()

    def write(self, data: bytes) -> None:
        """Send to the child; nothing happens when it is gone."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def close(self) -> None:
        """Close the socket."""
        self.resume()
        if self._transport is not None:
            self._transport.close()

    def pause(self, seconds: float) -> None:
        """Hear nothing for so long, or until `resume`."""
        if self._paused is None and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._paused = asyncio.get_running_loop().call_later(seconds, self.resume)

    def resume(self) -> None:
        """Hear what has come meanwhile."""
        if self._paused is not None and self._transport is not None:
            self._paused.cancel()
            self._paused = None
            self._transport.resume_reading()

    async def some(self) -> list[Message] | None:
        """The messages that have come since the last call, waiting for one; None after the last one.

        What no child sends ends them, too.
        """
        while not self._messages:
            self._came.clear()
            await self._came.wait()
        some: list[Message] = []
        while self._messages and (message := self._messages[0]) is not None:
            some.append(message)
            self._messages.popleft()
        return some or None

    def _end(self) -> None:
        if not self._messages or self._messages[-1] is not None:
            self._messages.append(None)
