"""Real services for tests: a redis-server of each kind that this machine has, on a unix socket."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

import pytest

from gramserve.queue.connection import connect
from gramserve.queue.embedded import EmbeddedRedis, Origin, find_server
from tests.waiting import until

ServerKind = Literal["bundled", "system"]
SERVER_KINDS: tuple[ServerKind, ...] = ("bundled", "system")
_ORIGIN: dict[ServerKind, Origin] = {"bundled": "bundled", "system": "path"}


def require(kind: ServerKind) -> None:
    """Skips the test where there is no such redis-server; without the bundled one CI fails instead."""
    found = find_server(_ORIGIN[kind])
    if found is not None and found.origin == _ORIGIN[kind]:
        return
    if kind == "bundled" and os.environ.get("CI"):
        pytest.fail("CI must have the bundled redis-server: install the extra [embedded]")
    pytest.skip(f"there is no {kind} redis-server here")


@asynccontextmanager
async def redis_server(
    folder: Path, kind: ServerKind = "bundled", *, port: int = 0, launcher: Sequence[str] = ()
) -> AsyncIterator[EmbeddedRedis]:
    """A running redis-server with its data in `folder`; `server.url` is where to connect. Started in about 50 ms."""
    require(kind)
    server = EmbeddedRedis(folder, port=port, prefer=_ORIGIN[kind], launcher=launcher)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextmanager
def redis_server_of_a_session(kind: ServerKind = "bundled") -> Iterator[EmbeddedRedis]:
    """The same for a fixture that outlives event loops; keep apart by lanes, or FLUSHALL between tests."""
    require(kind)
    with tempfile.TemporaryDirectory(prefix="gs-") as folder:
        server = EmbeddedRedis(Path(folder) / "redis", prefer=_ORIGIN[kind])
        asyncio.run(server.start())
        try:
            yield server
        finally:
            asyncio.run(server.stop())


async def kill_9(server: EmbeddedRedis) -> None:
    """Kills the server without warning; `start` brings it back.

    While the disk is busy Redis holds what it has yet to write for up to two seconds: that would be lost as well.
    """
    async with aclosing(connect(server.url)) as client:

        async def written() -> bool:
            return (await client.info("persistence"))["aof_buffer_length"] == 0

        await until(written)
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    await until(lambda: not server.alive)
