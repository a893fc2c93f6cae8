"""What the clients of all services share: one channel, opened with the client and closed with it."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from gramserve.client.patience import Patience, reach
from gramserve.errors import InvalidInput, Reason, Unavailable
from gramserve.rpc.channel import open_channel
from gramserve.rpc.explain import why_no_handshake
from gramserve.tls.options import TlsOptions

PAGE_SIZE = 1000


class Connection:
    """A connection to the service at `target` ("host:port"); an async context manager.

    Over TLS when `tls` names a CA or a certificate, and to another machine always, unless `tls` allows plain text.
    The token in `token_file` goes with every call. Files that change are used from the next call on. Raises
    InvalidInput (INVALID_SETTINGS) when files cannot be used, or the token would be readable on its way.
    """

    def __init__(
        self, target: str, patience: Patience | None, *, tls: TlsOptions | None = None, token_file: str = ""
    ) -> None:
        self._patience = patience or Patience()
        self._target = target
        self._tls = tls or TlsOptions()
        self._channel = open_channel(target, tls=tls, token_file=token_file)

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
        """Find out at once whether the service can be reached.

        Raises Unavailable (SERVICE_UNAVAILABLE), or InvalidInput (INVALID_SETTINGS) when it is there and TLS does not
        come about.
        """
        try:
            await reach(self._channel, timeout_s)
        except Unavailable:
            why = await asyncio.to_thread(why_no_handshake, self._target, self._tls)
            if not why:
                raise
            raise InvalidInput(Reason.INVALID_SETTINGS, f"the service is there, but {why}") from None
