"""Who starts and stops containers learns from the probe whether a service serves."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gramserve.metrics import Metrics
from gramserve.rpc.probe import own_address, serves
from gramserve.rpc.server import RpcServer
from gramserve.tls.options import TlsOptions
from gramserve.tls.service import Tls
from tests.doors.laboratory import Laboratory
from tests.waiting import HANGS_S


@asynccontextmanager
async def server(tls: TlsOptions | None = None) -> AsyncIterator[RpcServer]:
    made = RpcServer("localhost:0", register=[], names=[], metrics=Metrics(), tls=Tls(tls) if tls else None)
    await made.start()
    try:
        yield made
    finally:
        await made.stop(0)


async def test_a_service_that_does_not_serve_is_alive_and_not_ready() -> None:
    async with server() as up:
        target = f"localhost:{up.port}"
        assert await serves(target, TlsOptions()) == "NOT_SERVING"
        assert await serves(target, TlsOptions(), alive=True) == ""
        await up.set_serving(True)
        assert await serves(target, TlsOptions()) == ""
    assert await serves(target, TlsOptions(), alive=True, timeout_s=0.2) == "no answer: DEADLINE_EXCEEDED"


async def test_the_program_shows_the_certificate_of_the_service_where_callers_must_show_one(tmp_path: Path) -> None:
    laboratory = Laboratory(tmp_path / "ca")
    tls = laboratory.serving(mutual=True)
    async with server(tls) as up:
        await up.set_serving(True)
        environment = {
            "GRAMSERVE_GATEWAY_LISTEN": f"0.0.0.0:{up.port}",
            "GRAMSERVE_TLS_CERT_FILE": tls.cert_file,
            "GRAMSERVE_TLS_KEY_FILE": tls.key_file,
            "GRAMSERVE_TLS_CA_FILE": laboratory.file("ca.pem"),
        }
        assert await _probe(environment) == (0, "")
        assert (await _probe({**environment, "GRAMSERVE_WORKER_LISTEN": "0.0.0.0:1"}))[0] == 1
        await up.set_serving(False)
        assert await _probe(environment) == (1, "NOT_SERVING\n")


@pytest.mark.parametrize("environment", [{}, {"GRAMSERVE_GATEWAY_LISTEN": "a:1", "GRAMSERVE_WORKER_LISTEN": "b:2"}])
def test_which_service_is_meant_is_never_guessed(environment: dict[str, str]) -> None:
    with pytest.raises(LookupError):
        own_address(environment)


async def _probe(environment: dict[str, str]) -> tuple[int, str]:

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "gramserve.rpc.probe"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=HANGS_S,
        )
        return done.returncode, done.stderr

    return await asyncio.to_thread(run)
