"""The private redis-server."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
from contextlib import aclosing
from pathlib import Path

import pytest

from gramserve.errors import Unavailable, Unsafe
from gramserve.queue import EmbeddedRedis, connect
from gramserve.queue.embedded import Origin, ServerBinary, find_server
from tests.queue.lane import Lane
from tests.services import ServerKind, kill_9, redis_server, require
from tests.waiting import until


async def keep(url: str) -> None:
    async with aclosing(connect(url)) as client:
        await client.set("kept", "yes")


async def kept(url: str) -> bool:
    async with aclosing(connect(url)) as client:
        return await client.get("kept") == "yes"


async def test_it_says_which_program_it_runs(kind: ServerKind, tmp_path: Path) -> None:
    async with redis_server(tmp_path / "data", kind) as server:
        assert server.binary is not None
        assert server.binary.origin == {"bundled": "bundled", "system": "path"}[kind]
        async with aclosing(connect(server.url)) as client:
            assert (await client.info("server"))["redis_version"] == server.binary.version


async def test_only_its_user_reaches_it_and_its_data(kind: ServerKind, tmp_path: Path) -> None:
    async with redis_server(tmp_path / "data", kind) as server:
        assert server.url.startswith("unix://")
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data" / "redis.sock").stat().st_mode) == 0o700
        async with aclosing(connect(server.url)) as client:
            assert (await client.config_get("port"))["port"] == "0"


async def test_a_restart_keeps_the_data(kind: ServerKind, tmp_path: Path) -> None:
    for first in (True, False):
        async with redis_server(tmp_path, kind) as server:
            assert await kept(server.url) is not first
            await keep(server.url)
        assert not server.alive


async def test_I1_kill_9_keeps_the_queue(kind: ServerKind, tmp_path: Path) -> None:
    async with redis_server(tmp_path, kind) as server, aclosing(connect(server.url)) as client:
        lane = Lane(client)
        await lane.fill("lab/b", 5000)
        lease = await lane.lease_one()
        before = await lane.snapshot("lab/b")
        await kill_9(server)
        await server.start()
        assert await lane.snapshot("lab/b") == before
        assert (await lane.queue.complete(lease, "w1", "SUCCEEDED")).accepted
        await lane.check(["lab/b"])
        await lane.queue.aclose()


async def test_a_server_that_outlived_its_parent_is_replaced(kind: ServerKind, tmp_path: Path) -> None:
    require(kind)
    orphaned = EmbeddedRedis(tmp_path, prefer="bundled" if kind == "bundled" else "path")
    await orphaned.start()
    await keep(orphaned.url)
    assert orphaned._lock is not None
    orphaned._lock.close()  # all that a parent does for it when it is killed
    async with redis_server(tmp_path, kind) as server:
        await until(lambda: not orphaned.alive)
        assert server.pid != orphaned.pid
        assert await kept(server.url)
    await orphaned.stop()


async def test_a_server_that_outlived_its_parent_and_stands_still_keeps_its_data_to_itself(
    kind: ServerKind, tmp_path: Path
) -> None:
    require(kind)
    prefer: Origin = "bundled" if kind == "bundled" else "path"
    orphaned, follower = EmbeddedRedis(tmp_path, prefer=prefer), EmbeddedRedis(tmp_path, prefer=prefer)
    await orphaned.start()
    await keep(orphaned.url)
    assert orphaned._lock is not None
    assert orphaned.pid is not None
    orphaned._lock.close()
    os.kill(orphaned.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="earlier run"):
            await follower.start(timeout_s=0.1)
        assert not follower.alive
    finally:
        os.kill(orphaned.pid, signal.SIGCONT)
    try:
        await follower.start()
        await until(lambda: not orphaned.alive)
        assert await kept(follower.url)
    finally:
        await follower.stop()
        await orphaned.stop()


async def test_two_processes_cannot_use_one_folder(kind: ServerKind, tmp_path: Path) -> None:
    async with redis_server(tmp_path, kind) as server:
        with pytest.raises(Unsafe, match="another gramserve"):
            await EmbeddedRedis(tmp_path).start()
        await keep(server.url)
        await server.start()  # does nothing while it is alive
        assert await kept(server.url)


async def test_it_can_listen_on_a_port_of_the_loopback(kind: ServerKind, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with redis_server(tmp_path, kind, port=port) as server:
        assert server.url == f"redis://127.0.0.1:{port}/0"
        await keep(server.url)
        assert await kept(server.url)


async def test_a_folder_with_a_name_too_long_for_a_socket_works(kind: ServerKind, tmp_path: Path) -> None:
    folder = tmp_path / ("a folder " * 8) / ("long " * 12)
    for first in (True, False):
        async with redis_server(folder, kind) as server:
            assert await kept(server.url) is not first
            await keep(server.url)


async def test_a_server_that_does_not_start_is_unavailable(kind: ServerKind, tmp_path: Path) -> None:
    require(kind)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = EmbeddedRedis(tmp_path, port=taken.getsockname()[1], prefer="bundled" if kind == "bundled" else "path")
        with pytest.raises(Unavailable, match=r"redis\.log"):
            await server.start()
        assert not server.alive
    await server.start()
    await server.stop()


def test_a_program_that_is_no_fit_server_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("bundled")
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho 'Redis server v=5.0.7 sha=0'\n")
    old.chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = find_server()
    assert found is not None
    assert found.origin == "bundled"
    old.write_text("#!/bin/sh\nexit 1\n")
    found = find_server()
    assert found is not None
    assert found.origin == "bundled"


def test_an_activated_environment_does_not_change_which_server_opens_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip puts a copy of the wheel's server beside `python`; a 7.0 and a 6.2 do not read each other's files."""
    require("bundled")
    bundled = find_server("bundled")
    assert bundled is not None
    scripts, system = tmp_path / "scripts", tmp_path / "system"
    for folder in (scripts, system):
        folder.mkdir()
    shutil.copy(bundled.path, scripts / "redis-server")
    own = system / "redis-server"
    own.write_text("#!/bin/sh\necho 'Redis server v=7.2.1 sha=0'\n")
    own.chmod(0o700)
    monkeypatch.setenv("PATH", f"{scripts}:{system}")
    assert find_server() == ServerBinary(own, "path", "7.2.1")
    monkeypatch.setenv("PATH", str(scripts))
    assert find_server() == bundled
