"""A way to S3 on which single requests go wrong: refused, unanswered, late, or cut off in the middle of an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

Verdict = Literal["pass", "503", "cut", "lose", "hang"]
"""A request is served; refused; served, with half of its answer or without it; kept, and no answer ever comes."""

_REASON = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_SLOW_DOWN = b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n%s" % (len(_REASON), _REASON)


@dataclass
class S3Proxy:
    """Forwards HTTP requests to the S3 server at `port`; `judge` decides about each by method and path."""

    port: int
    judge: Callable[[str, str], Verdict] = lambda method, path: "pass"
    delay_s: float = 0.0
    requests: list[tuple[str, str, Verdict]] = field(default_factory=list)
    endpoint: str = ""

    def count(self, verdict: Verdict) -> int:
        """How many requests met this."""
        return sum(met == verdict for _, _, met in self.requests)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client, request by request."""
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, body = await _message(reader)
            method, path, _ = head.split(b"\r\n", 1)[0].decode().split(" ", 2)
            verdict = self.judge(method, path)
            self.requests.append((method, path, verdict))
            await asyncio.sleep(self.delay_s)
            if verdict == "hang":
                await asyncio.Event().wait()
            answer = _SLOW_DOWN if verdict == "503" else await self._forward(method, head, body)
            if verdict in {"cut", "lose"}:
                writer.write(answer[: len(answer) // 2 if verdict == "cut" else 0])
                return
            writer.write(answer)
            await writer.drain()

    async def _forward(self, method: str, head: bytes, body: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(head + body)
            answer_head, answer_body = await _message(reader, empty=method == "HEAD")
        finally:
            writer.close()
        return answer_head + answer_body


@asynccontextmanager
async def s3_proxy(port: int) -> AsyncIterator[S3Proxy]:
    """A proxy that listens at `endpoint` and passes everything, at first."""
    proxy = S3Proxy(port)
    connections: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        await proxy.serve(reader, writer)

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.endpoint = f"127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        listener.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _message(reader: asyncio.StreamReader, *, empty: bool = False) -> tuple[bytes, bytes]:
    """The head of a request or answer, and its body."""
    head = await reader.readuntil(b"\r\n\r\n")
    fields = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in head.split(b"\r\n"))
    }
    if empty:
        return head, b""
    if fields.get(b"transfer-encoding") == b"chunked":
        body = b""
        while True:
            size = await reader.readuntil(b"\r\n")
            chunk = await reader.readexactly(int(size, 16) + 2)
            body += size + chunk
            if int(size, 16) == 0:
                return head, body
    return head, await reader.readexactly(int(fields.get(b"content-length", b"0")))
