"""A Redis for the tests of the doors, emptied before each, a worker's bench on it, and a gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gramserve.queue import EmbeddedRedis
from tests.gateway.stack import Stack
from tests.inference.bench import Bench
from tests.services import redis_server_of_a_session


@pytest.fixture(scope="session")
def session_redis() -> Iterator[EmbeddedRedis]:
    with redis_server_of_a_session() as server:
        yield server


@pytest.fixture
async def bench(session_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, session_redis.url)
    await made.redis.flushall()
    yield made
    await made.close()


@pytest.fixture
async def stack(session_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Stack]:
    """A started gateway with models/gram in production."""
    made = Stack(tmp_path, session_redis)
    await made.flush()
    await made.publish()
    await made.start()
    try:
        yield made
    finally:
        await made.stop()
