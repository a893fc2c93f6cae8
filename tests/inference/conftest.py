"""A Redis for all tests of the worker, emptied before each, and a bench on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gramserve.queue import EmbeddedRedis
from inference_svc.child import HOOK
from tests.inference.bench import ROOT, Bench
from tests.inference.hooks import FOLDER
from tests.services import redis_server, redis_server_of_a_session


@pytest.fixture(scope="session")
def session_redis() -> Iterator[EmbeddedRedis]:
    with redis_server_of_a_session() as server:
        yield server


@pytest.fixture(autouse=True)
def hooked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Children obey the test; in a folder of their own, since what others leave there would be told to them, too."""
    monkeypatch.setenv(HOOK, "tests.inference.hooks:obey")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
async def bench(session_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, session_redis.url)
    await made.redis.flushall()
    yield made
    await made.close()


@pytest.fixture
async def short_bench(session_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[Bench]:
    """Leases of a second."""
    made = Bench(tmp_path, session_redis.url, lease_s=1.0)
    await made.redis.flushall()
    yield made
    await made.close()


@pytest.fixture
async def own_redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    """A server that the test may stop."""
    async with redis_server(tmp_path / "redis") as server:
        yield server
