"""A site on an emptied Redis, and the row of the fault matrix that a test writes."""

from __future__ import annotations

import os
import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gramserve.queue import EmbeddedRedis
from tests.faults import harness
from tests.faults.matrix import Fault
from tests.services import redis_server_of_a_session

WHOLE = os.environ.get("GRAMSERVE_TEST_FAULTS") == "all"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is marked `whole` runs with `make faults` only."""
    left = [item for item in items if not WHOLE and item.get_closest_marker("whole")]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


@pytest.fixture(scope="session")
def session_redis() -> Iterator[EmbeddedRedis]:
    """One Redis for the tests of a session that do not harm it."""
    with redis_server_of_a_session() as server:
        yield server


@pytest.fixture
async def site(session_redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[harness.Site]:
    """A site without services, with short leases."""
    async with harness.site(tmp_path, session_redis) as made:
        await made.redis_client.flushall()
        yield made


@pytest.fixture
def seed() -> int:
    """The seed of this test: FAULT_SEED, or a new one. It is printed, so a failure can be repeated."""
    chosen = int(os.environ.get("FAULT_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"FAULT_SEED={chosen}")
    return chosen


@pytest.fixture
def chance(seed: int) -> random.Random:
    """Randomness that the seed decides."""
    return random.Random(seed)


@pytest.fixture
def fault(request: pytest.FixtureRequest, seed: int) -> Fault:
    """The row of the matrix that this test writes."""
    return Fault(request.node.nodeid, seed)
