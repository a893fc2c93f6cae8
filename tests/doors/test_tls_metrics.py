"""The metrics by HTTPS: who sees them, how their certificate changes, and who is hung up on."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, make_wsgi_app

from gramserve.metrics import Metrics
from gramserve.tls.https import MOST, HttpServer
from gramserve.tls.service import Tls
from tests.doors.laboratory import Laboratory, shown
from tests.waiting import HANGS_S, until


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path / "certs")


def _scrape(port: int, context: ssl.SSLContext | None) -> bytes:
    plain = socket.create_connection(("127.0.0.1", port), timeout=HANGS_S)
    with context.wrap_socket(plain, server_hostname="127.0.0.1") if context else plain as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


async def test_metrics_are_shown_by_HTTPS_and_to_nobody_in_plain_text(laboratory: Laboratory) -> None:
    metrics = Metrics()
    port = metrics.serve("127.0.0.1", 0, tls=Tls(laboratory.serving()))
    context = ssl.create_default_context(cafile=laboratory.file("ca.pem"))
    assert b"gramserve_rpc_requests" in await asyncio.to_thread(_scrape, port, context)
    try:
        answer = await asyncio.to_thread(_scrape, port, None)
    except OSError:
        answer = b""
    assert b"gramserve" not in answer
    metrics.close()


async def test_metrics_ask_for_a_client_certificate_too(laboratory: Laboratory) -> None:
    metrics = Metrics()
    port = metrics.serve("127.0.0.1", 0, tls=Tls(laboratory.serving(mutual=True)))
    known = ssl.create_default_context(cafile=laboratory.file("ca.pem"))
    with pytest.raises(OSError, match=r"(?i)certificate required|reset|eof"):
        await asyncio.to_thread(_scrape, port, known)
    known.load_cert_chain(laboratory.file("client.pem"), laboratory.file("client.key"))
    assert b"gramserve_rpc_requests" in await asyncio.to_thread(_scrape, port, known)
    metrics.close()


async def test_who_opens_a_connection_to_the_metrics_and_says_nothing_holds_up_nobody(laboratory: Laboratory) -> None:
    metrics = Metrics()
    port = metrics.serve("127.0.0.1", 0, tls=Tls(laboratory.serving()))
    context = ssl.create_default_context(cafile=laboratory.file("ca.pem"))
    with socket.create_connection(("127.0.0.1", port)):
        assert b"gramserve" in await asyncio.to_thread(_scrape, port, context)
    metrics.close()


def _hung_up(silent: socket.socket) -> bool:
    try:
        return silent.recv(1) == b""
    except ConnectionError:
        return True


def _pages(laboratory: Laboratory, secure: bool, **limits: float) -> HttpServer:
    tls = Tls(laboratory.serving()) if secure else None
    return HttpServer("pages", "127.0.0.1", 0, make_wsgi_app(CollectorRegistry()), tls, **limits)


@pytest.mark.parametrize("secure", [True, False])
async def test_there_are_few_connections_to_the_metrics_at_once(laboratory: Laboratory, secure: bool) -> None:
    server = _pages(laboratory, secure, patience_s=600, longest_s=600)
    context = ssl.create_default_context(cafile=laboratory.file("ca.pem")) if secure else None
    silent = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(MOST + 1)]
    assert await asyncio.to_thread(_hung_up, silent[-1]), "there is no room for it"
    for one in silent:
        one.close()

    def answers() -> bool:
        try:
            return b"200 OK" in _scrape(server.port, context)
        except OSError:  # the last of them is not gone yet
            return False

    await until(lambda: asyncio.to_thread(answers))
    server.close()


@pytest.mark.parametrize("secure", [True, False])
@pytest.mark.parametrize("limits", [{"patience_s": 0.5, "longest_s": 600}, {"patience_s": 600, "longest_s": 0.5}])
async def test_who_says_nothing_to_the_metrics_is_hung_up_on(
    laboratory: Laboratory, secure: bool, limits: dict[str, float]
) -> None:
    server = _pages(laboratory, secure, **limits)
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as silent:
        assert await asyncio.to_thread(_hung_up, silent)
    server.close()


async def test_metrics_show_a_new_certificate_without_a_restart(laboratory: Laboratory) -> None:
    metrics = Metrics()
    port = metrics.serve("127.0.0.1", 0, tls=Tls(laboratory.serving()))
    context = ssl.create_default_context(cafile=laboratory.file("ca.pem"))
    assert shown(port, context).serial_number == laboratory.serial()
    laboratory.authority.issue("service", hosts=("127.0.0.1",))
    assert shown(port, context).serial_number == laboratory.serial()
    metrics.close()
