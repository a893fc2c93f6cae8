"""TLS on gRPC listeners: who gets in, what is refused, how certificates change while the service runs."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gramserve.errors import Reason, Unsafe
from gramserve.metrics import Metrics
from gramserve.rpc.channel import open_channel
from gramserve.rpc.server import RpcServer
from gramserve.tls.options import TlsOptions, is_local
from gramserve.tls.service import Tls
from gramserve.v1 import optimizer_service_pb2, optimizer_service_pb2_grpc
from tests.doors.laboratory import Laboratory, shown
from tests.rpc.conftest import NAME, Desk
from tests.waiting import HANGS_S, until


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path / "certs")


@pytest.fixture
def stranger(tmp_path: Path) -> Laboratory:
    """Another laboratory, of which ours knows nothing."""
    return Laboratory(tmp_path / "others")


class Server:
    """A server that answers, its desk and its metrics."""

    def __init__(self, options: TlsOptions) -> None:
        self.desk, self.metrics = Desk(), Metrics()
        self.rpc = RpcServer(
            "127.0.0.1:0",
            register=[lambda s: optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(self.desk, s)],
            names=[NAME],
            metrics=self.metrics,
            tls=Tls(options, look_s=0.01),
        )

    @property
    def port(self) -> int:
        return self.rpc.port

    def gauge(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"gramserve_{name}", labels)


@asynccontextmanager
async def serving(options: TlsOptions) -> AsyncIterator[Server]:
    server = Server(options)
    await server.rpc.start()
    try:
        yield server
    finally:
        await server.rpc.stop(0)


async def ask(channel: grpc.aio.Channel) -> str:
    """The answer of the service; raises what the client is told."""
    stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
    request = optimizer_service_pb2.GetOptimizationRequest(name="x")
    return str((await stub.GetOptimization(request, timeout=HANGS_S)).name)


async def gets_in(port: int, options: TlsOptions) -> bool:
    async with open_channel(f"127.0.0.1:{port}", tls=options) as channel:
        try:
            return await ask(channel) == "optimizations/answered"
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.UNAVAILABLE


async def test_a_client_that_trusts_the_laboratorys_CA_gets_in(laboratory: Laboratory) -> None:
    async with serving(laboratory.serving()) as server:
        assert await gets_in(server.port, laboratory.calling())


async def test_a_client_turns_away_from_a_server_of_another_CA(laboratory: Laboratory, stranger: Laboratory) -> None:
    async with serving(stranger.serving()) as server:
        assert not await gets_in(server.port, laboratory.calling())


async def test_a_client_turns_away_from_a_certificate_of_another_host(laboratory: Laboratory) -> None:
    laboratory.authority.issue("elsewhere", hosts=("gram.elsewhere.example",))
    async with serving(laboratory.serving("elsewhere")) as server:
        assert not await gets_in(server.port, laboratory.calling())


async def test_a_server_with_TLS_answers_nobody_in_plain_text(laboratory: Laboratory) -> None:
    async with serving(laboratory.serving()) as server:
        assert not await gets_in(server.port, TlsOptions())


async def test_with_a_client_CA_only_certificates_of_that_CA_get_in(
    laboratory: Laboratory, stranger: Laboratory
) -> None:
    async with serving(laboratory.serving(mutual=True)) as server:
        assert await gets_in(server.port, laboratory.calling("client"))
        assert not await gets_in(server.port, laboratory.calling())
        foreign = stranger.calling("client")
        assert not await gets_in(
            server.port, TlsOptions(foreign.cert_file, foreign.key_file, ca_file=laboratory.file("ca.pem"))
        )


async def test_an_expired_client_certificate_does_not_get_in(laboratory: Laboratory) -> None:
    then = datetime.now(UTC) - timedelta(days=20)
    type(laboratory.authority)(laboratory.folder, then).issue("late", days=10)
    # Our client refuses to start with it, so a plain one shows it.
    credentials = grpc.ssl_channel_credentials(
        Path(laboratory.file("ca.pem")).read_bytes(),
        Path(laboratory.file("late.key")).read_bytes(),
        Path(laboratory.file("late.pem")).read_bytes(),
    )
    async with serving(laboratory.serving(mutual=True)) as server:
        async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await ask(channel)
        assert await gets_in(server.port, laboratory.calling("client"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("weak", ["TLS 1.1", "CBC"])
async def test_old_protocols_and_weak_ciphers_are_refused(laboratory: Laboratory, weak: str) -> None:
    context = _weak(laboratory.context(), weak)
    lax = _weak(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), weak)
    lax.load_cert_chain(laboratory.file("service.pem"), laboratory.file("service.key"))
    async with serving(laboratory.serving()) as server, await asyncio.start_server(_hang_up, "127.0.0.1", ssl=lax) as s:
        await asyncio.to_thread(shown, s.sockets[0].getsockname()[1], context)  # the client itself could
        metrics_port = server.metrics.serve("127.0.0.1", 0, tls=Tls(laboratory.serving()))
        for port in (server.port, metrics_port):
            await asyncio.to_thread(shown, port, laboratory.context())
            with pytest.raises(OSError, match=r"(?i)alert|eof|reset"):
                await asyncio.to_thread(shown, port, context)
        server.metrics.close()


def _hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def _weak(context: ssl.SSLContext, weak: str) -> ssl.SSLContext:
    if weak == "TLS 1.1":
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    else:
        context.set_ciphers("ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


# Certificates that change


async def test_a_new_certificate_is_shown_without_a_restart_and_running_streams_go_on(laboratory: Laboratory) -> None:
    go = asyncio.Event()

    async def slow(_request: Any) -> AsyncIterator[Any]:
        yield optimizer_service_pb2.WatchOptimizationResponse()
        await go.wait()
        yield optimizer_service_pb2.WatchOptimizationResponse()

    async with serving(laboratory.serving()) as server:
        server.desk.stream = slow
        async with open_channel(f"127.0.0.1:{server.port}", tls=laboratory.calling()) as channel:
            stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
            stream = stub.WatchOptimization(optimizer_service_pb2.WatchOptimizationRequest(name="x"))
            await stream.read()
            before = await asyncio.to_thread(shown, server.port, laboratory.context())
            laboratory.authority.issue("service", hosts=("127.0.0.1",))
            after = await asyncio.to_thread(shown, server.port, laboratory.context())
            assert before.serial_number != after.serial_number == laboratory.serial()
            go.set()
            assert await stream.read() is not grpc.aio.EOF


async def test_a_bad_new_certificate_keeps_the_old_one_and_is_told(
    laboratory: Laboratory, stranger: Laboratory, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (laboratory.folder / "service.pem").read_bytes()
    serial = laboratory.serial()
    async with serving(laboratory.serving()) as server:
        for bad in (b"no certificate", b"", (stranger.folder / "service.pem").read_bytes()):
            (laboratory.folder / "service.pem").write_bytes(bad)
            await until(lambda: server.gauge("certificate_refused") == 1)
            seen = await asyncio.to_thread(shown, server.port, laboratory.context())
            assert seen.serial_number == serial
            (laboratory.folder / "service.pem").write_bytes(good)
            await until(lambda: server.gauge("certificate_refused") == 0)
    told = capsys.readouterr()
    assert "refused" in told.out + told.err
    assert str(laboratory.folder) not in told.out + told.err


async def test_a_new_client_CA_lets_its_clients_in_and_those_of_the_old_one_no_more(
    laboratory: Laboratory, stranger: Laboratory
) -> None:
    foreign = stranger.calling("client")
    foreign = TlsOptions(foreign.cert_file, foreign.key_file, ca_file=laboratory.file("ca.pem"))
    ours = laboratory.calling("client")
    clients = laboratory.folder / "clients.pem"
    clients.write_bytes((laboratory.folder / "ca.pem").read_bytes())
    options = TlsOptions(laboratory.file("service.pem"), laboratory.file("service.key"), client_ca_file=str(clients))
    async with serving(options) as server:
        assert (await gets_in(server.port, ours), await gets_in(server.port, foreign)) == (True, False)
        clients.write_bytes(clients.read_bytes() + (stranger.folder / "ca.pem").read_bytes())
        assert (await gets_in(server.port, ours), await gets_in(server.port, foreign)) == (True, True)
        clients.write_bytes((stranger.folder / "ca.pem").read_bytes())
        assert (await gets_in(server.port, ours), await gets_in(server.port, foreign)) == (False, True)


async def test_the_metrics_say_how_long_certificates_are_valid(laboratory: Laboratory) -> None:
    laboratory.authority.issue("service", hosts=("127.0.0.1",), days=3)
    async with serving(laboratory.serving(mutual=True)) as server:
        left = await until(lambda: server.gauge("certificate_expires_seconds", certificate="service"))
        assert 2.99 * 86_400 < left <= 3 * 86_400
        left = server.gauge("certificate_expires_seconds", certificate="client_ca")
        assert left is not None
        assert left > 3000 * 86_400


# What is refused at the start


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "gateway:0", ":0", "10.0.0.1.localhost:0"])
async def test_plain_text_beyond_this_machine_is_refused(address: str) -> None:
    server = RpcServer(address, register=[], names=[], metrics=Metrics())
    with pytest.raises(Unsafe, match="plain text") as caught:
        await server.start()
    assert caught.value.reason is Reason.INSECURE_LISTENER
    await server.stop(0)
    host = address.removesuffix(":0").strip("[]")
    with pytest.raises(Unsafe, match="plain text"):
        Metrics().serve(host, 0)


async def test_plain_text_beyond_this_machine_is_served_when_that_is_asked_for() -> None:
    server = RpcServer("0.0.0.0:0", register=[], names=[], metrics=Metrics(), tls=Tls(TlsOptions(allow_plaintext=True)))
    assert await server.start()
    await server.stop(0)


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/g.sock", "unix:///run/g.sock", "127.0.0.1"],
)
def test_these_addresses_stay_on_this_machine(address: str) -> None:
    assert is_local(address)


@pytest.mark.parametrize(
    "address", ["", "::", "0.0.0.0", "127.0.0.1.example.org:1", "localhost.example:1", "dns:///x:1"]
)
def test_these_addresses_do_not(address: str) -> None:
    assert not is_local(address)


def _readable_key(lab: Laboratory) -> None:
    (lab.folder / "service.key").chmod(0o644)


def _expired(lab: Laboratory) -> None:
    type(lab.authority)(lab.folder, datetime.now(UTC) - timedelta(days=20)).issue("service", hosts=("x",), days=10)


def _not_yet(lab: Laboratory) -> None:
    type(lab.authority)(lab.folder, datetime.now(UTC) + timedelta(days=20)).issue("service", hosts=("x",), days=10)


def _another_key(lab: Laboratory) -> None:
    (lab.folder / "client.key").replace(lab.folder / "service.key")


def _no_key(lab: Laboratory) -> None:
    (lab.folder / "service.key").unlink()


def _no_pem(lab: Laboratory) -> None:
    (lab.folder / "service.pem").write_text("certificate")


def _encrypted(lab: Laboratory) -> None:
    from cryptography.hazmat.primitives import serialization as s

    key = s.load_pem_private_key((lab.folder / "service.key").read_bytes(), None)
    pem = key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))
    (lab.folder / "service.key").write_bytes(pem)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_readable_key, "chmod 600"),
        (_expired, "has expired"),
        (_not_yet, "not valid yet"),
        (_another_key, "do not fit together"),
        (_no_key, "cannot be read"),
        (_no_pem, "no PEM file"),
        (_encrypted, "encrypted"),
    ],
)
def test_files_that_cannot_serve_are_refused_and_not_named(laboratory: Laboratory, spoil: Any, why: str) -> None:
    Tls(laboratory.serving())
    spoil(laboratory)
    with pytest.raises(Unsafe, match=why) as caught:
        Tls(laboratory.serving())
    assert caught.value.reason is Reason.INVALID_SETTINGS
    assert str(laboratory.folder) not in caught.value.message


def test_a_certificate_without_its_key_and_a_client_CA_without_a_certificate_are_refused(
    laboratory: Laboratory,
) -> None:
    for options in (
        TlsOptions(cert_file=laboratory.file("service.pem")),
        TlsOptions(key_file=laboratory.file("service.key")),
        TlsOptions(client_ca_file=laboratory.file("ca.pem")),
    ):
        with pytest.raises(Unsafe):
            Tls(options)


def test_a_group_may_read_a_key_as_in_a_mounted_secret(laboratory: Laboratory) -> None:
    (laboratory.folder / "service.key").chmod(0o640)
    Tls(laboratory.serving())
