"""A client certificate that TLS verified says who calls: over a real socket, by common name or alternative name."""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gramserve.access.directory import Directory
from gramserve.access.principal import Role
from gramserve.access.rules import rules_of
from gramserve.errors import GramserveError, Reason
from gramserve.metrics import Metrics
from gramserve.rpc.access import AccessControl
from gramserve.rpc.interceptors import ErrorsAndMetrics
from gramserve.rpc.status import from_rpc_error
from gramserve.v1 import optimizer_service_pb2_grpc
from tests.doors.callers import Callers, bearer
from tests.doors.test_access import GET, tell_who
from tests.rpc.conftest import NAME, Desk

Key = ec.EllipticCurvePrivateKey


class Authority:
    """A CA of one test."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = _name("ca")
        self.certificate = self._sign(self.name, self.key, [], ca=True)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, common_name: str, *others: x509.GeneralName) -> tuple[bytes, bytes]:
        """Key and certificate, PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(_name(common_name), key, list(others))
        secret = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return secret, certificate.public_bytes(serialization.Encoding.PEM)

    def _sign(self, name: x509.Name, key: Key, others: list[x509.GeneralName], *, ca: bool = False) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if others:
            builder = builder.add_extension(x509.SubjectAlternativeName(others), critical=False)
        return builder.sign(self.key, hashes.SHA256())


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


Who = Callable[..., Any]


@asynccontextmanager
async def caller_of(port: int, ca: Authority, pair: tuple[bytes, bytes]) -> AsyncIterator[Any]:
    """A stub on a connection of mutual TLS."""
    credentials = grpc.ssl_channel_credentials(ca.pem, *pair)
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        yield optimizer_service_pb2_grpc.OptimizerServiceStub(channel)


@pytest.fixture
def ca() -> Authority:
    return Authority()


@pytest.fixture
def callers(tmp_path: Path) -> Callers:
    made = Callers(tmp_path)
    made.add("lis", [Role.MODEL_PUBLISHER], certificates=["lis.hospital.example"])
    made.add("robot", [Role.MODEL_PUBLISHER], certificates=["spiffe://hospital.example/robot", "robot-7"])
    return made


@pytest.fixture
async def port(ca: Authority, callers: Callers) -> AsyncIterator[int]:
    metrics = Metrics()
    door = AccessControl(Directory(callers.path, metrics), rules_of([NAME]))
    server = grpc.aio.server(interceptors=[ErrorsAndMetrics(metrics), door])
    optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(Desk(unary=tell_who), server)
    own = ca.issue("server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    credentials = grpc.ssl_server_credentials([own], root_certificates=ca.pem, require_client_auth=True)
    number = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    yield number
    await server.stop(0)


async def who(port: int, ca: Authority, pair: tuple[bytes, bytes], token: str = "") -> str | GramserveError:
    async with caller_of(port, ca, pair) as stub:
        try:
            return str((await stub.GetOptimization(GET, metadata=bearer(token))).name)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)


async def test_a_certificate_is_known_by_its_common_name_and_by_its_alternative_names(port: int, ca: Authority) -> None:
    assert await who(port, ca, ca.issue("lis.hospital.example")) == "lis"
    assert await who(port, ca, ca.issue("any", x509.DNSName("lis.hospital.example"))) == "lis"
    uri = x509.UniformResourceIdentifier("spiffe://hospital.example/robot")
    assert await who(port, ca, ca.issue("robot-7", uri)) == "robot"


@pytest.mark.parametrize(
    "name", ["stranger", "LIS.hospital.example", "lis.hospital.example.evil", "*.hospital.example"]
)
async def test_a_certificate_of_our_ca_that_nobody_was_given_is_a_strangers(
    port: int, ca: Authority, name: str
) -> None:
    error = await who(port, ca, ca.issue(name))
    assert isinstance(error, GramserveError)
    assert error.reason is Reason.UNAUTHENTICATED


async def test_a_certificate_that_fits_two_principals_fits_none(port: int, ca: Authority) -> None:
    error = await who(port, ca, ca.issue("robot-7", x509.DNSName("lis.hospital.example")))
    assert isinstance(error, GramserveError)
    assert (error.reason, "several principals" in error.message) == (Reason.UNAUTHENTICATED, True)


async def test_a_token_says_more_than_a_certificate_and_a_wrong_one_is_not_overlooked(
    port: int, ca: Authority, callers: Callers
) -> None:
    pair = ca.issue("lis.hospital.example")
    assert await who(port, ca, pair, callers.tokens["robot"]) == "robot"
    error = await who(port, ca, pair, callers.tokens["robot"][:-4] + "beef")
    assert isinstance(error, GramserveError)
    assert error.reason is Reason.UNAUTHENTICATED


async def test_a_certificate_of_another_ca_does_not_even_connect(port: int, ca: Authority) -> None:
    error = await who(port, ca, Authority().issue("lis.hospital.example"))
    assert isinstance(error, GramserveError)
    assert error.reason is Reason.SERVICE_UNAVAILABLE
