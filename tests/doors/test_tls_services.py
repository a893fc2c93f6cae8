"""Every listener of every service: with TLS, and refused in plain text beyond this machine."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from tests.artifacts import publish_tiny
from tests.doors.laboratory import Laboratory, shown
from tests.e2e.running import GRAMSERVE, Up
from tests.services import redis_server
from tests.sources import ROOT
from tests.waiting import HANGS_S

SERVICES = {"gateway": "GATEWAY", "inference_svc": "WORKER", "optimizer_svc": "OPTIMIZER"}


@pytest.fixture
def laboratory(tmp_path: Path) -> Laboratory:
    made = Laboratory(tmp_path / "certs")
    for name in ("gateway", "worker", "optimizer", "report"):
        made.authority.issue(name, hosts=("127.0.0.1",))
    return made


async def _refusal(service: str, tmp_path: Path, **changes: str) -> str:
    """What a service says that must not start."""
    prefix = f"GRAMSERVE_{SERVICES[service]}_"
    async with redis_server(tmp_path / "redis") as redis:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GRAMSERVE_")},
            "GRAMSERVE_STORE_URL": str(tmp_path / "store"),
            "GRAMSERVE_REDIS_URL": redis.url,
            f"{prefix}LISTEN": "127.0.0.1:0",
            f"{prefix}METRICS_PORT": "0",
            "GRAMSERVE_OPTIMIZER_WORK_FOLDER": str(tmp_path / "work"),
            **{name.replace("SERVICE_", prefix): value for name, value in changes.items()},
        }
        command = [sys.executable, "-m", service]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANGS_S
        )
    assert done.returncode == 2, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert "Traceback" not in done.stderr
    return said[-1]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize(
    "changes",
    [
        {"SERVICE_LISTEN": "0.0.0.0:0"},
        {"SERVICE_METRICS_HOST": "0.0.0.0"},
        {"GRAMSERVE_REDIS_URL": "redis://192.0.2.1:6379/0"},
    ],
    ids=["gRPC", "metrics", "Redis"],
)
async def test_a_service_refuses_to_start_in_plain_text_beyond_this_machine(
    service: str, changes: dict[str, str], tmp_path: Path
) -> None:
    said = await _refusal(service, tmp_path, GRAMSERVE_ALLOW_ANONYMOUS="true", **changes)
    assert "plain text" in said
    assert "GRAMSERVE_ALLOW_PLAINTEXT" in said


@pytest.mark.parametrize("service", SERVICES)
async def test_a_service_refuses_to_start_with_a_key_that_others_can_read(
    service: str, laboratory: Laboratory, tmp_path: Path
) -> None:
    (laboratory.folder / "service.key").chmod(0o644)
    said = await _refusal(
        service,
        tmp_path,
        GRAMSERVE_TLS_CERT_FILE=laboratory.file("service.pem"),
        GRAMSERVE_TLS_KEY_FILE=laboratory.file("service.key"),
    )
    assert "chmod 600" in said
    assert str(laboratory.folder) not in said


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody uses."""
    for first in range(20_000 + os.getpid() % 20_000, 60_000, count):
        probes = [socket.socket() for _ in range(count)]
        try:
            for number, probe in enumerate(probes):
                probe.bind(("127.0.0.1", first + number))
        except OSError:
            continue
        else:
            return first
        finally:
            for probe in probes:
                probe.close()
    raise AssertionError("no ports are free")


async def _command(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [GRAMSERVE, *words],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )


@pytest.mark.slow
async def test_up_serves_every_listener_with_the_certificate_of_its_service_and_lets_only_the_laboratory_in(
    laboratory: Laboratory, tmp_path: Path
) -> None:
    await publish_tiny(Registry(open_store(str(tmp_path / "data" / "store"))))
    first = _free_ports(4)
    words = ("--tls-dir", laboratory.file(""), "--client-certificates", "--metrics-port", str(first))
    up = Up(tmp_path / "data", *words)
    try:
        await up.ready()
        listeners = {
            int(up.address(name).rpartition(":")[2]): name.partition("-")[0]
            for name in ("gateway", "worker-1", "optimizer")
        }
        listeners |= {first: "gateway", first + 1: "worker", first + 2: "optimizer", first + 3: "report"}
        assert len(listeners) == 7
        for port, name in listeners.items():
            seen = await asyncio.to_thread(shown, port, laboratory.context("client"))
            assert seen.serial_number == laboratory.serial(name)
            assert await asyncio.to_thread(_turns_away, port, laboratory)
        await _commands_get_in_with_a_certificate(laboratory, up.address("gateway"))
        logs = [line for file in (tmp_path / "data" / "logs").iterdir() for line in file.read_text().splitlines()]
        assert [line for line in logs if not line.startswith("{")] == [], "who is turned away fills no log"
    finally:
        assert await up.stop() == 0


async def _commands_get_in_with_a_certificate(laboratory: Laboratory, gateway: str) -> None:
    ca, words = {"GRAMSERVE_CLIENT_CA_FILE": laboratory.file("ca.pem")}, ("models", "list", "--gateway", gateway)
    certificate = {
        "GRAMSERVE_CLIENT_CERT_FILE": laboratory.file("client.pem"),
        "GRAMSERVE_CLIENT_KEY_FILE": laboratory.file("client.key"),
    }
    options = ("--cert-file", laboratory.file("client.pem"), "--key-file", laboratory.file("client.key"))
    another = {"GRAMSERVE_CLIENT_CA_FILE": laboratory.file("client.pem")}
    by_environment, by_options, without, wrong = await asyncio.gather(
        _command(*words, **ca, **certificate),
        _command(*options, *words, **ca),
        _command(*words, **ca),
        _command(*words, **another),
    )
    assert by_environment.returncode == 0, by_environment.stderr
    assert "gram" in by_environment.stdout
    assert by_options.stdout == by_environment.stdout
    assert (without.returncode, without.stdout) == (wrong.returncode, wrong.stdout) == (2, "")
    assert without.stderr == (
        "gramserve: the service is there, but it does not accept the certificate of the caller, or misses one "
        "(INVALID_SETTINGS)\n"
    )
    assert wrong.stderr == "gramserve: the service is there, but its certificate is of another CA (INVALID_SETTINGS)\n"


def _turns_away(port: int, laboratory: Laboratory) -> bool:
    """Whether a caller without a certificate is hung up on; TLS 1.3 tells it with the first bytes of an answer."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=HANGS_S)
    try:
        with laboratory.context().wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            return secure.recv(1) == b""
    except ssl.SSLError as error:
        return "CERTIFICATE_REQUIRED" in str(error) or "EOF" in str(error)
    except ConnectionError:
        return True
