"""The client that never repeats itself, and what its errors become."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing, suppress
from pathlib import Path

import pytest

from gramserve.errors import Reason, Unavailable
from gramserve.queue import EmbeddedRedis, Queue, connect
from tests.queue.lane import Lane
from tests.queue.lossy import lossy_network
from tests.services import ServerKind, kill_9, redis_server
from tests.waiting import HANGS_S, until


async def test_I2_a_command_whose_answer_is_lost_is_not_sent_again(
    lane: Lane, server: EmbeddedRedis, tmp_path: Path
) -> None:
    await lane.fill("lab/b", 2)
    await lane.queue.complete(await lane.lease_one(), "w1", "SUCCEEDED")  # Redis knows the script now
    lease = await lane.lease_one()
    async with lossy_network(server.url, tmp_path) as (network, url), aclosing(connect(url)) as client:
        far = Queue(client, lane.name)
        await far.renew("w1", [lease])
        network.sent.clear()
        network.losing = True
        with pytest.raises(Unavailable) as caught:
            await far.complete(lease, "w1", "SUCCEEDED")
        assert caught.value.reason is Reason.QUEUE_UNAVAILABLE
        assert caught.value.retry_after_s
        assert network.sent.count(b"EVALSHA") == 1
        network.losing = False
        assert not (await far.complete(lease, "w1", "SUCCEEDED")).accepted, "it had been accepted"
        await far.aclose()
    seen = await lane.snapshot("lab/b")
    assert (seen.succeeded, seen.live) == (2, 0)


async def test_more_callers_than_redis_py_has_connections_may_wait_and_ask_at_once(server: EmbeddedRedis) -> None:
    async with aclosing(connect(server.url, timeout_s=60)) as client:  # this machine may be busy
        lane = Lane(client)
        await lane.fill("lab/b", 1)
        last = (await lane.queue.events("lab/b", 0))[-1].sequence
        waiting = [asyncio.create_task(lane.queue.next_events("lab/b", last, 1, 120)) for _ in range(120)]

        async def all_wait() -> bool:
            return int((await client.info("clients"))["blocked_clients"]) >= len(waiting)

        await until(all_wait, 60)
        found = await asyncio.gather(*(lane.snapshot("lab/b") for _ in range(120)))
        assert {snapshot.live for snapshot in found} == {1}
        await lane.lease_one()
        assert {len(events) for events in await asyncio.gather(*waiting)} == {1}
        await lane.queue.aclose()


@pytest.mark.parametrize("url", ["unix:///nowhere/redis.sock", "redis://127.0.0.1:1/0"])
async def test_an_unreachable_redis_is_unavailable_whatever_the_call(url: str) -> None:
    async with aclosing(connect(url, timeout_s=0.5)) as client:
        queue = Queue(client, "slides")
        for call in (
            queue.lease("w1", 1, idle=True),
            queue.snapshot("lab/b"),
            queue.events("lab/b", 0),
            queue.next_events("lab/b", 0, 1, 0.1),
            queue.wait_ready(0.1),
            queue.drained(),
            queue.depth(),
            queue.tallies(),
            queue.draining("w1"),
            queue.server(),
            queue.check_safe(allow_volatile=False),
            queue.cancel("lab/b"),
            queue.reclaim("sweeper"),
        ):
            with pytest.raises(Unavailable) as caught:
                await call
            assert caught.value.reason is Reason.QUEUE_UNAVAILABLE
            assert "nowhere" not in caught.value.message
        await queue.aclose()


async def test_a_redis_that_stands_still_is_unavailable_soon_and_usable_as_soon_as_it_goes_on(
    kind: ServerKind, tmp_path: Path
) -> None:
    async with (
        redis_server(tmp_path, kind) as server,
        aclosing(connect(server.url)) as patient,
        aclosing(connect(server.url, timeout_s=0.2)) as hasty,
    ):
        lane = Lane(patient)
        queue = Queue(hasty, lane.name)
        await lane.fill("lab/b", 1)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                with pytest.raises(Unavailable):
                    await asyncio.wait_for(queue.lease("w1", 1, idle=True), HANGS_S)
        finally:
            os.kill(server.pid, signal.SIGCONT)

        async def leased() -> bool:
            # The calls that timed out are carried out late; the next one gives back what they took.
            with suppress(Unavailable):
                return [lease.crashes for lease in await queue.lease("w1", 1, idle=True)] == [0]
            return False

        await until(leased)
        await lane.check(["lab/b"])
        await lane.queue.aclose()
        await queue.aclose()


async def test_I11_a_client_outlives_its_redis(kind: ServerKind, tmp_path: Path) -> None:
    async with redis_server(tmp_path, kind) as server, aclosing(connect(server.url)) as client:
        lane = Lane(client)
        await lane.fill("lab/b", 3)
        lease = await lane.lease_one()
        waiting = asyncio.create_task(lane.queue.next_events("lab/b", 99, 1, 60))
        await lane.queue.renew("w1", [lease])
        await kill_9(server)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(waiting, HANGS_S)
        with pytest.raises(Unavailable):
            await lane.queue.renew("w1", [lease])
        await server.start()
        assert (await lane.queue.complete(lease, "w1", "SUCCEEDED")).accepted, "what was written survives"
        assert [found.index for found in await lane.queue.lease("w1", 5, idle=True)] == [1, 2]
        await lane.check(["lab/b"])
        await lane.queue.aclose()
