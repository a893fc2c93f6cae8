"""Connections to the Redis that Sentinels name as the master now.

https://redis.io/docs/latest/develop/reference/sentinel-clients/ says what a client of Sentinel does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Connection, ConnectionPool, Redis
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool, SentinelManagedConnection

from gramserve.errors import InvalidInput, Reason
from gramserve.queue.encrypted import TlsConnection
from gramserve.tls.service import Tls

SCHEMES = ("redis+sentinel", "rediss+sentinel")
PORT = 26379
_OF_SENTINELS = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What `redis+sentinel://[user:password@]host[:port],host[:port],.../SERVICE[/DATABASE]` says.

    `rediss+sentinel` speaks TLS to the Sentinels and to Redis. User and password are those of Redis; the Sentinels'
    own are `?sentinel_username=...&sentinel_password=...`.
    """

    encrypted: bool
    sentinels: tuple[tuple[str, int], ...]
    service: str
    redis: Mapping[str, str | int]
    of_sentinels: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> SentinelUrl:
        """Raises InvalidInput (INVALID_SETTINGS), without the URL in it: it may hold a password."""
        scheme, _, rest = url.partition("://")
        place, _, query = rest.partition("?")
        credentials_and_hosts, _, path = place.partition("/")
        credentials, _, hosts = credentials_and_hosts.rpartition("@")
        service, _, database = path.partition("/")
        try:
            sentinels = tuple(_host_and_port(host) for host in hosts.split(","))
            found: dict[str, str | int] = {"db": int(database or 0)}
            asked = parse_qs(query, strict_parsing=bool(query))
            of_sentinels = {_OF_SENTINELS[name]: values[-1] for name, values in asked.items()}
        except (ValueError, KeyError):
            raise _unusable() from None
        if scheme not in SCHEMES or not service:
            raise _unusable()
        user, _, password = credentials.partition(":")
        found |= {name: unquote(text) for name, text in (("username", user), ("password", password)) if text}
        return cls(scheme.startswith("rediss"), sentinels, unquote(service), found, of_sentinels)


class MasterPool(SentinelConnectionPool):
    """Connects to the master only, whose address it asks the Sentinels for at each new connection.

    A Redis that stops being the master is told by Sentinel to close its connections; what was sent on them fails like
    any lost connection. Raises Unsafe where plain text, not allowed by `tls`, would leave this machine.
    """

    def __init__(self, url: SentinelUrl, tls: Tls, **options: Any) -> None:
        if url.encrypted:
            tls.client_context()  # files that cannot be used are found at the start
        else:
            for host, _port in url.sentinels:
                tls.check_plain_connection("Redis Sentinel", host)
        self._url, self._tls = url, tls
        bounded = {**options, "socket_timeout": options["socket_connect_timeout"]}
        to_sentinels = bounded | _encryption(url, tls, plain=Connection, encrypted=TlsConnection) | {**url.of_sentinels}
        to_redis = options | _encryption(url, tls, plain=SentinelManagedConnection, encrypted=_ManagedTlsConnection)
        sentinels: Any = Sentinel([])  # type: ignore[no-untyped-call]
        sentinels.sentinels = [
            Redis.from_pool(ConnectionPool(host=host, port=port, **to_sentinels)) for host, port in url.sentinels
        ]
        super().__init__(url.service, sentinels, **to_redis, **url.redis)  # type: ignore[no-untyped-call]

    async def get_master_address(self) -> Any:
        """Host and port of the master; raises redis-py's MasterNotFoundError when no Sentinel names one."""
        host, port = await super().get_master_address()  # type: ignore[no-untyped-call]
        if not self._url.encrypted:
            self._tls.check_plain_connection("Redis", host)
        return host, port

    async def aclose(self) -> None:
        """Closes the connections to Redis and to the Sentinels."""
        await super().aclose()
        for sentinel in self.sentinel_manager.sentinels:
            await sentinel.aclose()


class _ManagedTlsConnection(SentinelManagedConnection, TlsConnection):
    """Asks for the address first, then speaks TLS to it."""


def _encryption(url: SentinelUrl, tls: Tls, *, plain: type[Any], encrypted: type[Any]) -> dict[str, Any]:
    return {"connection_class": encrypted, "tls": tls} if url.encrypted else {"connection_class": plain}


def _host_and_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.path:
        raise ValueError("no host")
    return parts.hostname, parts.port or PORT


def _unusable() -> InvalidInput:
    return InvalidInput(
        Reason.INVALID_SETTINGS,
        "the address of Redis cannot be used: redis+sentinel://[user:password@]host:port,host:port/SERVICE[/DATABASE]",
    )
