"""What clients of ours show and trust: files that change, tokens, plain text to other machines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from cryptography import x509

from gramserve.client import GramserveClient, OptimizerClient, Patience
from gramserve.errors import InvalidInput, Reason, Unavailable
from gramserve.metrics import Metrics
from gramserve.rpc.channel import open_channel
from gramserve.rpc.renewing import RenewingChannel
from gramserve.rpc.server import RpcServer
from gramserve.tls.options import TlsOptions
from gramserve.tls.service import Tls
from gramserve.v1 import optimizer_service_pb2, optimizer_service_pb2_grpc
from gramserve.v1.optimization_pb2 import Optimization
from tests.doors.laboratory import Laboratory
from tests.rpc.conftest import NAME
from tests.waiting import HANGS_S, until


class Mirror(optimizer_service_pb2_grpc.OptimizerServiceServicer):
    """Answers with what it is shown of its caller: the serial number of its certificate and its token."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    async def GetOptimization(self, request: Any, context: Any) -> Optimization:
        return Optimization(name=_caller(context))

    async def WatchOptimization(self, request: Any, context: Any) -> AsyncIterator[Any]:
        yield optimizer_service_pb2.WatchOptimizationResponse(optimization=Optimization(name=_caller(context)))
        await self.go.wait()
        last = Optimization(name=_caller(context), state=Optimization.STATE_SUCCEEDED)
        yield optimizer_service_pb2.WatchOptimizationResponse(optimization=last)


def _caller(context: Any) -> str:
    pem = context.auth_context().get("x509_pem_cert", [b""])[0]
    serial = x509.load_pem_x509_certificate(pem).serial_number if pem else 0
    return f"{serial} {dict(context.invocation_metadata()).get('authorization', '')}".strip()


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    return Laboratory(tmp_path / "certs")


@asynccontextmanager
async def mirror(options: TlsOptions | None = None) -> AsyncIterator[tuple[str, Mirror]]:
    servicer = Mirror()
    server = RpcServer(
        "127.0.0.1:0",
        register=[lambda s: optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(servicer, s)],
        names=[NAME],
        metrics=Metrics(),
        tls=Tls(options),
    )
    port = await server.start()
    try:
        yield f"127.0.0.1:{port}", servicer
    finally:
        await server.stop(0)


async def test_a_client_shows_its_certificate(laboratory: Laboratory) -> None:
    async with (
        mirror(laboratory.serving(mutual=True)) as (target, _),
        OptimizerClient(target, tls=laboratory.calling("client")) as client,
    ):
        await client.connect()
        assert (await client.get_optimization("x")).name == str(laboratory.serial("client"))


async def test_a_new_certificate_of_a_client_is_shown_from_the_next_call_on_and_running_streams_go_on(
    laboratory: Laboratory,
) -> None:
    async with (
        mirror(laboratory.serving(mutual=True)) as (target, servicer),
        OptimizerClient(target, tls=laboratory.calling("client")) as client,
    ):
        first = str(laboratory.serial("client"))
        watch = client.watch_optimization("x")
        assert (await anext(watch)).name == first
        laboratory.authority.issue("client")
        second = str(laboratory.serial("client"))
        assert (await client.get_optimization("x")).name == second != first
        servicer.go.set()
        assert (await anext(watch)).name == first, "the stream stays on the connection that it began on"
        await watch.aclose()


async def test_a_connection_of_an_old_certificate_is_closed_once_its_calls_have_ended(laboratory: Laboratory) -> None:
    async with mirror(laboratory.serving(mutual=True)) as (target, servicer):
        channel = open_channel(target, tls=laboratory.calling("client"))
        assert isinstance(channel, RenewingChannel)
        stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
        stream = stub.WatchOptimization(optimizer_service_pb2.WatchOptimizationRequest(name="x"))
        await stream.read()
        old = channel.newest().channel
        laboratory.authority.issue("client")
        await stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name="x"))
        assert old.get_state() is grpc.ChannelConnectivity.READY
        servicer.go.set()
        while await stream.read() is not grpc.aio.EOF:
            pass

        def closed() -> bool:
            return old.get_state() is grpc.ChannelConnectivity.SHUTDOWN

        await until(closed)
        await channel.close()


async def test_an_idle_connection_of_an_old_certificate_is_closed_at_the_next_call(laboratory: Laboratory) -> None:
    async with mirror(laboratory.serving(mutual=True)) as (target, _):
        channel = open_channel(target, tls=laboratory.calling("client"))
        assert isinstance(channel, RenewingChannel)
        stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
        for _number in range(2):
            old = channel.newest().channel
            await stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name="x"))
            laboratory.authority.issue("client")
        await stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name="x"))

        def closed() -> bool:
            return old.get_state() is grpc.ChannelConnectivity.SHUTDOWN

        await until(closed)
        await channel.close()


async def test_a_client_keeps_its_old_certificate_while_the_new_one_cannot_be_used(laboratory: Laboratory) -> None:
    async with (
        mirror(laboratory.serving(mutual=True)) as (target, _),
        OptimizerClient(target, tls=laboratory.calling("client")) as client,
    ):
        first = str(laboratory.serial("client"))
        (laboratory.folder / "client.pem").write_text("half a certif")
        assert (await client.get_optimization("x")).name == first


async def test_closing_a_client_ends_the_streams_of_all_its_certificates(laboratory: Laboratory) -> None:
    async with mirror(laboratory.serving(mutual=True)) as (target, _):
        channel = open_channel(target, tls=laboratory.calling("client"))
        stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
        stream = stub.WatchOptimization(optimizer_service_pb2.WatchOptimizationRequest(name="x"))
        await stream.read()
        laboratory.authority.issue("client")
        await stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest(name="x"))
        await asyncio.wait_for(channel.close(), HANGS_S)
        await until(stream.done)


@pytest.mark.parametrize("secure", [True, False])
async def test_a_token_goes_with_every_call_and_is_read_again_when_it_changes(
    laboratory: Laboratory, secure: bool
) -> None:
    token = laboratory.folder / "token"
    token.write_text("gst_1_first\n")
    served, called = (laboratory.serving(), laboratory.calling()) if secure else (None, None)
    async with (
        mirror(served) as (target, _),
        OptimizerClient(target, tls=called, token_file=str(token)) as client,
    ):
        assert (await client.get_optimization("x")).name == "0 Bearer gst_1_first"
        token.write_text("gst_2_second_longer\n")
        assert (await client.get_optimization("x")).name == "0 Bearer gst_2_second_longer"
        watch = client.watch_optimization("x")
        assert (await anext(watch)).name == "0 Bearer gst_2_second_longer"
        await watch.aclose()


def test_a_token_is_never_sent_in_plain_text_to_another_machine(laboratory: Laboratory) -> None:
    token = laboratory.folder / "token"
    token.write_text("gst_1_secret")
    with pytest.raises(InvalidInput, match="TLS only") as caught:
        GramserveClient("192.0.2.1:50051", tls=TlsOptions(allow_plaintext=True), token_file=str(token))
    assert caught.value.reason is Reason.INVALID_SETTINGS


@pytest.mark.parametrize("content", [None, "", "two words", "gst_\x00", "gst_\nx: y", "gst_é"])
def test_a_file_that_holds_no_token_is_refused_and_not_repeated(laboratory: Laboratory, content: str | None) -> None:
    token = laboratory.folder / "token"
    if content is not None:
        token.write_text(content)
    with pytest.raises(InvalidInput, match="token") as caught:
        OptimizerClient(token_file=str(token))
    assert str(token) not in caught.value.message
    assert not content or content not in caught.value.message


def test_files_of_a_client_that_cannot_be_used_are_refused_at_once(laboratory: Laboratory) -> None:
    for tls in (TlsOptions(ca_file=laboratory.file("none.pem")), TlsOptions(cert_file=laboratory.file("client.pem"))):
        with pytest.raises(InvalidInput) as caught:
            GramserveClient(tls=tls)
        assert str(laboratory.folder) not in caught.value.message


async def test_another_machine_is_spoken_to_by_TLS_unless_plain_text_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Here a name that is not the loopback's, though it leads there: what counts is what the caller can be sure of."""
    opened: list[str] = []
    for kind in ("insecure_channel", "secure_channel"):
        real = getattr(grpc.aio, kind)

        def record(*args: Any, kind: str = kind, real: Any = real, **kwargs: Any) -> Any:
            opened.append(kind)
            return real(*args, **kwargs)

        monkeypatch.setattr(grpc.aio, kind, record)
    for target, tls in (
        ("gateway.example:1", None),
        ("gateway.example:1", TlsOptions(allow_plaintext=True)),
        ("127.0.0.1:1", None),
    ):
        await open_channel(target, tls=tls).close()
    assert opened == ["secure_channel", "insecure_channel", "insecure_channel"]


@pytest.mark.parametrize(
    ("served", "shown", "why"),
    [
        ("mutual", "", "does not accept the certificate of the caller, or misses one"),
        ("mutual", "foreign", "does not accept the certificate of the caller"),
        ("of another name", "", "for another name"),
        ("of another CA", "", "of another CA"),
        ("in plain text", "", "speaks no TLS"),
        ("with TLS", "nothing", "its CA must be named"),
        ("mutual", "nothing", "its CA must be named"),
    ],
)
async def test_a_client_says_why_TLS_does_not_come_about(
    laboratory: Laboratory, tmp_path: Path, served: str, shown: str, why: str
) -> None:
    stranger = Laboratory(tmp_path / "others")
    laboratory.authority.issue("elsewhere", hosts=("gram.elsewhere.example",))
    serving = {
        "mutual": laboratory.serving(mutual=True),
        "of another name": laboratory.serving("elsewhere"),
        "of another CA": stranger.serving(),
        "in plain text": None,
        "with TLS": laboratory.serving(),
    }[served]
    calling = laboratory.calling()
    if shown == "foreign":
        calling = TlsOptions(stranger.file("client.pem"), stranger.file("client.key"), ca_file=calling.ca_file)
    async with (
        mirror(serving) as (target, _),
        OptimizerClient(target, tls=TlsOptions() if shown == "nothing" else calling) as client,
    ):
        with pytest.raises(InvalidInput, match=why):
            await client.connect(0.3)


async def test_a_service_that_is_not_there_is_told_from_one_that_speaks_otherwise(laboratory: Laboratory) -> None:
    async with OptimizerClient("127.0.0.1:1", tls=laboratory.calling()) as client:
        with pytest.raises(Unavailable):
            await client.connect(0.1)


async def test_a_service_that_speaks_plain_text_is_not_spoken_to_by_a_client_that_wants_TLS(
    laboratory: Laboratory,
) -> None:
    impatient = Patience(total_s=0.1, call_s=2)
    async with (
        mirror() as (target, _),
        OptimizerClient(target, tls=laboratory.calling(), patience=impatient) as client,
    ):
        with pytest.raises(Unavailable):
            await client.get_optimization("x")
