"""What the clients of all services share: one channel, opened with the client and closed with it."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from gramserve.client.patience import Patience, reach
from gramserve.rpc.channel import open_channel

PAGE_SIZE = 1000


class Connection:
    """A connection to the service at `target` ("host:port"); an async context manager."""

    def __init__(self, target: str, patience: Patience | None) -> None:
        self._patience = patience or Patience()
        self._channel = open_channel(target)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        await self._channel.close()

    async def connect(self, timeout_s: float = 5.0) -> None:
        """Find out at once whether the service can be reached. Raises Unavailable (SERVICE_UNAVAILABLE)."""
        await reach(self._channel, timeout_s)
