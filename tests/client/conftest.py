"""A real gateway on a real Redis, and the client of a laboratory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gramserve.client import GramserveClient
from tests.client.desk import IMPATIENT
from tests.gateway.stack import Stack
from tests.services import redis_server


@pytest.fixture
async def stack(tmp_path: Path) -> AsyncIterator[Stack]:
    """A started gateway with models/gram in production."""
    async with redis_server(tmp_path / "redis") as redis:
        stack = Stack(tmp_path, redis)
        await stack.publish()
        await stack.start()
        try:
            yield stack
        finally:
            await stack.stop()


@pytest.fixture
async def client(stack: Stack) -> AsyncIterator[GramserveClient]:
    """The client of laboratory north."""
    assert stack.app is not None
    async with GramserveClient(f"127.0.0.1:{stack.app.port}", laboratory="north", patience=IMPATIENT) as client:
        await client.connect()
        yield client
