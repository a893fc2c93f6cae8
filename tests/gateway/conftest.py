"""A gateway in this process, on a real Redis and a real store, and a worker that needs no model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gramserve.queue.embedded import EmbeddedRedis
from tests.gateway.stack import Stack
from tests.services import redis_server


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def stack(tmp_path: Path, redis: EmbeddedRedis) -> AsyncIterator[Stack]:
    """A started gateway with models/gram in production."""
    stack = Stack(tmp_path, redis)
    await stack.publish()
    await stack.start()
    try:
        yield stack
    finally:
        await stack.stop()
