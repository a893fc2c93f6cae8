"""The faulty network itself: a fault that it does not make would let every test of an outage pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError

from gramserve.queue import EmbeddedRedis, connect
from tests.faults.proxy import Exchange, FaultProxy, Frames, fault_proxy, words_of
from tests.services import redis_server
from tests.waiting import until


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[EmbeddedRedis]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@asynccontextmanager
async def client_through(proxy: FaultProxy, timeout_s: float = 2.0) -> AsyncIterator[Redis]:
    client = connect(proxy.url, timeout_s=timeout_s)
    try:
        yield client
    finally:
        await client.aclose()


def increments(exchange: Exchange) -> bool:
    return exchange.words[0].startswith(b"INCR")


async def test_exactly_the_nth_reply_is_lost_and_its_command_was_carried_out(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    async with fault_proxy(redis.url, tmp_path / "near") as proxy, client_through(proxy) as client:
        loss = proxy.lose(increments, nth=3)
        answers = []
        for _ in range(5):
            await client.set("other", "x" * 100_000)
            try:
                answers.append(await client.incr("n"))
            except RedisError:
                answers.append(None)
            assert await client.get("other") == "x" * 100_000
        assert answers == [1, 2, None, 4, 5]
        assert loss.done


async def test_a_lost_reply_behind_others_of_one_pipeline_lets_those_pass(redis: EmbeddedRedis, tmp_path: Path) -> None:
    async with fault_proxy(redis.url, tmp_path / "near") as proxy:
        loss = proxy.lose(increments)
        reader, writer = await asyncio.open_unix_connection(tmp_path / "near" / "near.sock")
        writer.write(b"*1\r\n$4\r\nPING\r\n" * 2 + b"*2\r\n$4\r\nincr\r\n$1\r\nn\r\n" + b"*1\r\n$4\r\nPING\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.readexactly(14) == b"+PONG\r\n+PONG\r\n"
            assert await reader.read() == b""
        writer.close()
        assert loss.done


async def test_a_cut_breaks_what_stands_and_what_is_made_until_it_heals(redis: EmbeddedRedis, tmp_path: Path) -> None:
    async with fault_proxy(redis.url, tmp_path / "near") as proxy, client_through(proxy) as client:
        await client.ping()
        proxy.cut()
        for _ in range(2):
            with pytest.raises(RedisError):
                await client.ping()
        proxy.heal()
        assert await client.ping()


async def test_a_black_hole_answers_nothing_and_delivers_late_what_it_kept(
    redis: EmbeddedRedis, tmp_path: Path
) -> None:
    async with (
        fault_proxy(redis.url, tmp_path / "near") as proxy,
        client_through(proxy, 0.2) as client,
        client_through(proxy) as later,
    ):
        await client.ping()
        proxy.black_hole()
        with pytest.raises(RedisError):
            await client.incr("n")
        proxy.heal()

        async def arrived() -> bool:
            return await later.get("n") == "1"

        await until(arrived)


async def test_a_delay_is_waited_for_in_each_direction(redis: EmbeddedRedis, tmp_path: Path) -> None:
    async with fault_proxy(redis.url, tmp_path / "near") as proxy, client_through(proxy) as client:
        await client.ping()
        proxy.delay_s = 0.05
        began = asyncio.get_running_loop().time()
        await client.ping()
        assert asyncio.get_running_loop().time() - began >= 0.1


async def test_any_bytes_pass_over_tcp(tmp_path: Path) -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(70_000))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with fault_proxy(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", tmp_path / "near") as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
        sent = b"*3\r\n" + bytes(range(256)) * 273 + b"1" * 108
        writer.write(sent)
        assert await reader.readexactly(70_000) == sent
        writer.close()
    server.close()


def test_frames_are_cut_wherever_their_pieces_end() -> None:
    stream = b"*2\r\n$3\r\nget\r\n$0\r\n\r\n:12\r\n*-1\r\n$-1\r\n*2\r\n*1\r\n+a\r\n-b\r\n"
    whole = [b"*2\r\n$3\r\nget\r\n$0\r\n\r\n", b":12\r\n", b"*-1\r\n", b"$-1\r\n", b"*2\r\n*1\r\n+a\r\n-b\r\n"]
    for size in range(1, len(stream) + 1):
        frames = Frames()
        found = [f for start in range(0, len(stream), size) for f in frames.feed(stream[start : start + size])]
        assert found == whole
    assert words_of(whole[0]) == (b"GET", b"")
