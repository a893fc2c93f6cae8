"""The TLS connection to Redis, with the certificates of the service as they are at that moment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import SSLConnection

from gramserve.tls.service import Tls


class TlsConnection(SSLConnection):
    """Takes its context anew for each connection, so that a changed certificate needs no restart."""

    def __init__(self, *, tls: Tls, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "ssl": self._tls.client_context()}
