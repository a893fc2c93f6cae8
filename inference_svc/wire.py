"""The child's end of the socket pair: messages out, messages in, everything blocks."""

from __future__ import annotations

import select
import socket
from collections import deque

from inference_svc.protocol import Message, Parser, pack

_RECEIVE_BYTES = 2**16


class Wire:
    """The child's end of the socket pair; everything blocks."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._parser = Parser()
        self._received: deque[Message] = deque()
        self._held = b""

    def send(self, message: Message, *, hold: bool = False) -> None:
        """Sends one message; raises OSError when the worker is gone.

        `hold`: it may go together with the next one, which is sent soon, or when `receive` would have to wait.
        """
        self._held += pack(message)
        if not hold:
            self._flush()

    def receive(self) -> Message | None:
        """Waits for the next message; None when the worker is gone. Raises BrokenProtocol and RecordCorrupt."""
        if self._held and not self.waiting():
            self._flush()
        while not self._received:
            try:
                # Several messages that wait are received together; of a large one just what it lacks, in few pieces.
                data = self._socket.recv(max(_RECEIVE_BYTES, self._parser.lacks))
            except ConnectionError:
                return None
            if not data:
                return None
            self._received.extend(self._parser.feed(data))
        return self._received.popleft()

    def waiting(self) -> bool:
        """True when `receive` would not have to wait, or not for long."""
        return bool(self._received) or bool(self._poll.poll(0))

    def _flush(self) -> None:
        held, self._held = self._held, b""
        self._socket.sendall(held)
