"""Connections to Redis that never repeat a command by themselves, and the one translation of its errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis.asyncio import ConnectionPool, Redis, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from gramserve.errors import Exhausted, Reason, Unavailable
from gramserve.queue.encrypted import TlsConnection
from gramserve.queue.format import REFUSAL, other_format
from gramserve.queue.sentinel import SCHEMES, MasterPool, SentinelUrl
from gramserve.tls.service import Tls

RETRY_AFTER_S = 2.0
FULL_RETRY_AFTER_S = 10.0
_MOST_CONNECTIONS = 10_000
"""What Redis itself lets in unless told otherwise; redis-py's own limit is 100, fewer than a service lets in."""


def connect(url: str, *, timeout_s: float = 2.0, tls: Tls | None = None) -> Redis:
    """A client for `redis://`, `rediss://` or `unix://`, fit for a `Queue`; it connects at its first command.

    `redis+sentinel://` and `rediss+sentinel://` follow the master that Sentinels name (`SentinelUrl`).

    Commands fail after `timeout_s` seconds and are never sent twice: redis-py's own retries repeat a command whose
    reply was lost, and a lease or an event must not happen twice. Close it with `aclose`.

    Over `rediss://` the server is always verified, and each new connection uses the files of `tls` as they are then.
    Raises Unsafe for `redis://` beyond this machine, unless `tls` allows plain text.
    """
    tls = tls or Tls()
    if url.startswith(SCHEMES):
        return _client(MasterPool(SentinelUrl.parse(url), tls, **_options(timeout_s), socket_timeout=timeout_s))
    pool = ConnectionPool.from_url(url, **_options(timeout_s), socket_timeout=timeout_s)
    if pool.connection_class is SSLConnection:
        tls.client_context()  # files that cannot be used are found at the start
        pool.connection_class = TlsConnection
        pool.connection_kwargs["tls"] = tls
    elif host := pool.connection_kwargs.get("host"):
        tls.check_plain_connection("Redis", host)
    return _client(pool)


def blocking_twin(redis: Redis) -> Redis:
    """A second client to the same server for reads that block: no socket timeout, the caller bounds each wait."""
    pool = redis.connection_pool
    options = {**pool.connection_kwargs, "socket_timeout": None}
    made = ConnectionPool(connection_class=pool.connection_class, max_connections=pool.max_connections, **options)
    return _client(made)


def _options(timeout_s: float) -> dict[str, object]:
    return {
        "decode_responses": True,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
        "socket_connect_timeout": timeout_s,
        "max_connections": _MOST_CONNECTIONS,
    }


def _client(pool: ConnectionPool) -> Redis:
    return Redis.from_pool(pool)


@contextmanager
def translated() -> Iterator[None]:
    """Turns whatever Redis or the network raises into `Exhausted` (out of memory) or `Unavailable` (all else).

    `Unsafe` for a lane that another release keeps, see `gramserve.queue.format`.
    """
    try:
        yield
    except RedisError as error:
        # Redis 6.2 wraps the answer of a refused call in an error of the script's, and the client sees no class of it.
        if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in str(error):
            raise Exhausted(
                Reason.QUEUE_FULL,
                "the queue is out of memory; running slides still finish, try again later",
                retry_after_s=FULL_RETRY_AFTER_S,
            ) from error
        if REFUSAL in str(error):  # 6.2 puts words of its own before it, too
            raise other_format(str(error).partition(REFUSAL)[2].split()[0]) from error
        refused = isinstance(error, ResponseError)
        raise _unavailable("refuses to work" if refused else "cannot be reached") from error
    except (OSError, TimeoutError) as error:
        raise _unavailable("cannot be reached") from error


def _unavailable(what: str) -> Unavailable:
    return Unavailable(Reason.QUEUE_UNAVAILABLE, f"the queue {what}", retry_after_s=RETRY_AFTER_S)
