"""Redis behind Sentinels: the queue follows the master."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from pathlib import Path

import pytest
from redis.exceptions import RedisError

from gramserve.errors import InvalidInput, Reason, Unavailable, Unsafe
from gramserve.queue import Lease, connect
from gramserve.queue.sentinel import SentinelUrl
from gramserve.tls.options import TlsOptions
from gramserve.tls.service import Tls
from tests.doors.laboratory import Laboratory
from tests.faults import harness
from tests.faults.checker import inspect
from tests.queue.lane import Lane
from tests.sentinels import encrypted_redis, watched_redis
from tests.services import ServerKind
from tests.waiting import HANGS_S, until


async def test_I11_the_queue_goes_on_with_the_replica_that_becomes_the_master(kind: ServerKind, tmp_path: Path) -> None:
    async with watched_redis(tmp_path, kind) as redis, aclosing(connect(redis.url)) as client:
        lane = Lane(client)
        await lane.queue.check_safe(allow_volatile=False)
        await lane.fill("lab/b", 4)
        lease = await lane.lease_one()
        waiting = asyncio.create_task(lane.queue.next_events("lab/b", 99, 1, 60))
        first, second = redis.ports
        async with aclosing(redis.client(first)) as master:
            assert await master.execute_command("WAIT", 1, 10_000) == 1
        await redis.names(first)
        await redis.kill(first)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(waiting, HANGS_S)

        async def leased() -> list[Lease]:
            with suppress(Unavailable):
                return await lane.queue.lease("w1", 1, idle=True)
            return []

        again = await until(leased, what="a slide is leased from the new master")
        await redis.names(second)
        assert [found.index for found in again] == [1]
        await lane.queue.next_events("lab/b", 0, 1, 60)  # its other connection has found the new master, too
        assert (await lane.queue.complete(lease, "w1", "SUCCEEDED")).accepted, "its lease was known to the replica"

        # What was the master comes back and takes itself for it still, until a Sentinel tells it otherwise.
        redis.start_server(first)

        async def is_back() -> bool:
            with suppress(RedisError):
                async with aclosing(redis.client(first)) as old:
                    return "role" in await old.info("replication")
            return False

        await until(is_back)
        await client.connection_pool.disconnect()
        await lane.lease_one()
        seen = await lane.snapshot("lab/b")
        assert (seen.succeeded, seen.running, seen.live) == (1, 2, 3)
        await lane.queue.aclose()


async def test_a_sentinel_that_is_gone_is_passed_over(kind: ServerKind, tmp_path: Path) -> None:
    async with watched_redis(tmp_path, kind) as redis, aclosing(connect(redis.url)) as client:
        await redis.kill(redis.sentinels[0])
        lane = Lane(client)
        await lane.fill("lab/b", 1)
        for port in redis.sentinels[1:]:
            await redis.kill(port)
        assert (await lane.lease_one()).index == 0, "open connections need no Sentinel"
        await client.connection_pool.disconnect()
        with pytest.raises(Unavailable) as caught:
            await lane.queue.depth()
        assert caught.value.reason is Reason.QUEUE_UNAVAILABLE
        assert "127.0.0.1" not in caught.value.message
        await lane.queue.aclose()


async def test_sentinels_and_redis_are_spoken_to_by_TLS_with_our_certificate(kind: ServerKind, tmp_path: Path) -> None:
    if kind == "bundled":
        pytest.skip("the bundled redis-server is built without TLS")
    laboratory = Laboratory(tmp_path / "certs")
    async with encrypted_redis(tmp_path / "redis", laboratory) as url:
        for known in ("client", ""):
            async with aclosing(connect(url, tls=Tls(laboratory.calling(known)))) as client:
                lane = Lane(client)
                if known:
                    await lane.fill("lab/b", 2)
                    assert (await lane.lease_one()).index == 0
                    await lane.queue.next_events("lab/b", 0, 1, 5)
                else:
                    with pytest.raises(Unavailable):
                        await lane.queue.depth()
                await lane.queue.aclose()


async def test_I1_services_go_on_with_the_new_master_and_no_slide_is_lost(tmp_path: Path) -> None:
    async with watched_redis(tmp_path / "redis", "bundled") as redis, harness.site(tmp_path, redis) as site:
        await site.gateway()
        await site.worker()
        held = site.picture("hold")
        await site.create([held, *(site.picture() for _ in range(20))])
        await site.held(held)
        await redis.kill(redis.ports[0])
        site.let_go(held)
        await site.create([site.picture()])  # asked for again and again until there is a master
        first, second = await site.ended(timeout_s=120)
        assert (first.completion_stats.succeeded_count, second.completion_stats.succeeded_count) == (21, 1)
        found = await inspect(site, gapless=False)
        found.held()
        assert (found.lost, found.duplicated) == (0, 0)
        await redis.names(redis.ports[1])


def test_an_address_says_all_that_is_needed() -> None:
    found = SentinelUrl.parse("rediss+sentinel://me:s%40cret@a:1,b,[::1]:3/gram/2?sentinel_password=other")
    assert found.encrypted
    assert found.sentinels == (("a", 1), ("b", 26379), ("::1", 3))
    assert found.service == "gram"
    assert found.redis == {"db": 2, "username": "me", "password": "s@cret"}
    assert found.of_sentinels == {"password": "other"}


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:secret@a:1",
        "redis+sentinel://:secret@/gram",
        "redis+sentinel://:secret@a:port/gram",
        "redis+sentinel://:secret@a,,b/gram",
        "redis+sentinel://:secret@a/gram/one",
        "redis+sentinel://a/gram?password=secret",
    ],
)
def test_an_address_that_cannot_be_used_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        connect(url)
    assert caught.value.reason is Reason.INVALID_SETTINGS
    assert "secret" not in caught.value.message


def test_sentinels_in_plain_text_on_another_machine_are_refused() -> None:
    with pytest.raises(Unsafe, match="plain text") as caught:
        connect("redis+sentinel://:secret@127.0.0.1,192.0.2.1/gram")
    assert caught.value.reason is Reason.INSECURE_LISTENER
    assert "secret" not in caught.value.message
    connect("redis+sentinel://192.0.2.1/gram", tls=Tls(TlsOptions(allow_plaintext=True)))
