"""A network between client and Redis that can lose answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit


class LossyNetwork:
    """Forwards bytes both ways; while `losing`, the answers of scripts vanish and their connections break."""

    def __init__(self, server_url: str) -> None:
        self._target = unquote(urlsplit(server_url).path)
        self.losing = False
        self.sent = bytearray()
        self._pumps: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(self._target)

        doomed = False

        async def requests() -> None:
            nonlocal doomed
            while data := await reader.read(65536):
                doomed = doomed or (self.losing and b"EVALSHA" in data)
                self.sent += data
                far_writer.write(data)
            far_writer.close()

        async def answers() -> None:
            while data := await far_reader.read(65536):
                if doomed:
                    break
                writer.write(data)
            writer.close()
            far_writer.close()

        for pump in (requests(), answers()):
            task = asyncio.create_task(pump)
            self._pumps.add(task)
            task.add_done_callback(self._pumps.discard)

    async def settle(self) -> None:
        """Waits until every connection is closed."""
        await asyncio.gather(*self._pumps, return_exceptions=True)


@asynccontextmanager
async def lossy_network(server_url: str, folder: Path) -> AsyncIterator[tuple[LossyNetwork, str]]:
    """A lossy network before the server at a unix socket, and the url of its near side."""
    network = LossyNetwork(server_url)
    listener = await asyncio.start_unix_server(network.accept, folder / "near.sock")
    try:
        yield network, f"unix://{folder / 'near.sock'}"
    finally:
        listener.close()
        await network.settle()
        await listener.wait_closed()
