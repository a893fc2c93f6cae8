"""Redis by rediss://: verified, with a client certificate, with files that change."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from gramserve.errors import Reason, Unavailable, Unsafe
from gramserve.queue import Queue, connect
from gramserve.queue.connection import blocking_twin
from gramserve.queue.embedded import find_server
from gramserve.tls.options import TlsOptions
from gramserve.tls.service import Tls
from tests.doors.laboratory import Laboratory
from tests.services import redis_server
from tests.waiting import until


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path / "certs")


class Front:
    """TLS before a redis-server that has none, as a sidecar does it; asks for client certificates and notes them."""

    def __init__(self, laboratory: Laboratory, socket: Path) -> None:
        self._socket = socket
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(laboratory.file("service.pem"), laboratory.file("service.key"))
        self.context.load_verify_locations(laboratory.file("ca.pem"))
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.serials: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    async def hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.serials.append(int(writer.get_extra_info("peercert")["serialNumber"], 16))
        behind_reader, behind_writer = await asyncio.open_unix_connection(str(self._socket))
        self._writers |= {writer, behind_writer}
        await asyncio.gather(_pour(reader, behind_writer), _pour(behind_reader, writer))

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def fronted(laboratory: Laboratory, folder: Path) -> AsyncIterator[tuple[Front, str]]:
    async with redis_server(folder / "redis") as server:
        front = Front(laboratory, folder / "redis" / "redis.sock")
        assert server.alive
        listening = await asyncio.start_server(front.hold, "127.0.0.1", ssl=front.context)
        try:
            yield front, f"rediss://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0"
        finally:
            listening.close()
            front.cut()


async def test_the_queue_works_over_TLS_and_shows_its_certificate(laboratory: Laboratory, tmp_path: Path) -> None:
    async with fronted(laboratory, tmp_path) as (front, url):
        async with aclosing(connect(url, tls=Tls(laboratory.calling("client")))) as redis:
            queue = Queue(redis, "slides")
            await queue.check_safe(allow_volatile=False)
            assert (await queue.depth()).leased == 0
            async with aclosing(blocking_twin(redis)) as twin:
                assert await twin.ping()
            await queue.aclose()
        assert set(front.serials) == {laboratory.serial("client")}


@pytest.mark.parametrize("wrong", ["another CA", "no certificate of ours", "the system's CAs", "a setting in the URL"])
async def test_a_redis_that_cannot_be_verified_or_does_not_know_us_is_unavailable(
    laboratory: Laboratory, tmp_path: Path, wrong: str
) -> None:
    stranger = Laboratory(tmp_path / "others")
    ours = laboratory.calling("client")
    tls = {
        "another CA": TlsOptions(ours.cert_file, ours.key_file, ca_file=stranger.file("ca.pem")),
        "no certificate of ours": laboratory.calling(),
        "the system's CAs": TlsOptions(ours.cert_file, ours.key_file),
        "a setting in the URL": TlsOptions(ours.cert_file, ours.key_file, ca_file=stranger.file("ca.pem")),
    }[wrong]
    words = "?ssl_cert_reqs=none&ssl_check_hostname=false" if wrong == "a setting in the URL" else ""
    async with fronted(laboratory, tmp_path) as (front, url):
        async with aclosing(connect(url + words, tls=Tls(tls))) as redis:
            queue = Queue(redis, "slides")
            with pytest.raises(Unavailable) as caught:
                await queue.depth()
            assert caught.value.reason is Reason.QUEUE_UNAVAILABLE
            await queue.aclose()
        assert front.serials == []


async def test_a_connection_that_broke_comes_back_with_the_new_certificate(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    async with fronted(laboratory, tmp_path) as (front, url):
        async with aclosing(connect(url, tls=Tls(laboratory.calling("client")))) as redis:
            queue = Queue(redis, "slides")
            await queue.depth()
            laboratory.authority.issue("client")
            front.cut()

            async def back() -> bool:
                try:
                    await queue.depth()
                except Unavailable:
                    return False
                return True

            await until(back)
            await queue.aclose()
        assert front.serials[-1] == laboratory.serial("client") != front.serials[0]


async def test_a_real_redis_with_TLS_of_its_own_serves_the_queue(laboratory: Laboratory, tmp_path: Path) -> None:
    found = find_server("path")
    if found is None or found.origin != "path":
        pytest.skip("there is no redis-server of the system here; the bundled one is built without TLS")
    socket = tmp_path / "r.sock"
    words = {
        "port": "0",
        "tls-port": "0",
        "unixsocket": str(socket),
        "dir": str(tmp_path),
        "appendonly": "yes",
        "maxmemory-policy": "noeviction",
        "tls-cert-file": laboratory.file("service.pem"),
        "tls-key-file": laboratory.file("service.key"),
        "tls-ca-cert-file": laboratory.file("ca.pem"),
        "tls-auth-clients": "yes",
    }
    command = [str(found.path), *(part for name, value in words.items() for part in (f"--{name}", value))]
    process = await asyncio.to_thread(
        subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        port = await _with_tls_port(process, socket)
        async with (
            aclosing(connect(f"rediss://127.0.0.1:{port}/0", tls=Tls(laboratory.calling("client")))) as redis,
            aclosing(connect(f"rediss://127.0.0.1:{port}/0", tls=Tls(laboratory.calling()))) as unknown,
        ):
            queue, refused = Queue(redis, "slides"), Queue(unknown, "slides")
            assert (await queue.depth()).leased == 0
            with pytest.raises(Unavailable):
                await refused.depth()
            await queue.aclose()
            await refused.aclose()
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)


async def _with_tls_port(process: subprocess.Popen[bytes], socket: Path) -> int:
    """A free port, on which the server begins to speak TLS: only its own CONFIG SET can try several."""
    async with aclosing(connect(f"unix://{socket}")) as admin:

        async def up() -> bool:
            if process.poll() is not None:
                pytest.skip("the redis-server on PATH is built without TLS")
            try:
                return bool(await admin.ping())
            except Exception:
                return False

        await until(up)
        for port in range(20_000 + process.pid % 20_000, 60_000):
            try:
                await admin.config_set("tls-port", port)
            except Exception:
                continue
            return port
    raise AssertionError("no port is free")


@pytest.mark.parametrize("url", ["redis://192.0.2.1:6379/0", "redis://redis:6379/0", "redis://user:secret@redis/0"])
def test_a_redis_in_plain_text_on_another_machine_is_refused_without_its_address(url: str) -> None:
    with pytest.raises(Unsafe, match="plain text") as caught:
        connect(url)
    assert caught.value.reason is Reason.INSECURE_LISTENER
    assert "secret" not in caught.value.message
    connect(url, tls=Tls(TlsOptions(allow_plaintext=True)))


@pytest.mark.parametrize("url", ["redis://localhost/0", "redis://[::1]:6379", "unix:///run/redis.sock"])
def test_a_redis_on_this_machine_may_be_spoken_to_in_plain_text(url: str) -> None:
    connect(url)
