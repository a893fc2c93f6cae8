"""Every test of the queue runs on each kind of redis-server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from gramserve.queue import EmbeddedRedis, Queue, connect
from tests.queue.lane import Lane
from tests.services import SERVER_KINDS, ServerKind, redis_server_of_a_session


@pytest.fixture(scope="session", params=SERVER_KINDS)
def kind(request: pytest.FixtureRequest) -> ServerKind:
    chosen: ServerKind = request.param
    return chosen


@pytest.fixture(scope="session")
def server(kind: ServerKind) -> Iterator[EmbeddedRedis]:
    with redis_server_of_a_session(kind) as running:
        yield running


@pytest.fixture
async def redis(server: EmbeddedRedis) -> AsyncIterator[Redis]:
    client = connect(server.url)
    yield client
    await client.aclose()


@pytest.fixture
async def lane(redis: Redis) -> AsyncIterator[Lane]:
    made = Lane(redis)
    yield made
    await made.queue.aclose()


@pytest.fixture
async def queue(lane: Lane) -> Queue:
    return lane.queue
