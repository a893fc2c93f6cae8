"""One supervised process: it comes back, it says why not, it never outlives its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from gramserve.errors import Unavailable
from gramserve.local import tether
from gramserve.local.service import Service, ServiceSpec
from gramserve.local.stack import shares
from tests.waiting import HANGS_S, until

SERVES = """
import json, os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print(json.dumps({"event": "ready", "port": int(os.environ["PORT"]) or 4711}), file=sys.stderr, flush=True)
while True:
    time.sleep(60)
"""
REFUSES = """
import sys
print('{"event": "starting"}', file=sys.stderr)
sys.exit("the store cannot be written (UNSAFE_STORE)")
"""
DEAF = SERVES.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def service(tmp_path: Path, said: list[str], request: pytest.FixtureRequest) -> Iterator[Service]:
    (tmp_path / "served.py").write_text(getattr(request, "param", SERVES))
    spec = ServiceSpec("served", "served", {"PYTHONPATH": str(tmp_path), "PORT": "{port}"}, ready_s=30.0)
    service = Service(spec, tmp_path / "served.log", said.append)
    yield service
    if service.pid is not None:
        os.kill(service.pid, signal.SIGKILL)


async def test_a_service_that_dies_is_started_again_on_its_port(service: Service, said: list[str]) -> None:
    await service.start()
    first = service.pid
    assert first is not None
    assert service.port == 4711
    keeper = asyncio.create_task(service.keep())
    os.kill(first, signal.SIGKILL)
    await until(lambda: "served is ready again" in said)
    assert service.pid not in {None, first}
    assert service.port == 4711
    assert "SIGKILL" in said[0]
    await service.stop(grace_s=10.0)
    await keeper
    assert service.pid is None
    assert len(said) == 2


@pytest.mark.parametrize("service", [REFUSES], indirect=True)
async def test_a_service_that_refuses_to_start_says_why(service: Service) -> None:
    with pytest.raises(Unavailable) as caught:
        await service.start()
    assert caught.value.message == "served did not start: the store cannot be written (UNSAFE_STORE)"


@pytest.mark.parametrize("service", [DEAF], indirect=True)
async def test_a_service_that_does_not_stop_is_killed(service: Service, said: list[str]) -> None:
    await service.start()
    await service.stop(grace_s=0.05)
    assert service.pid is None
    assert "is killed" in said[0]


def test_a_tethered_process_dies_with_its_parent(tmp_path: Path) -> None:
    code = """
import subprocess, sys, time
from gramserve.local import tether
sleeper = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(60)"]
child = subprocess.Popen([*tether.launcher(), *sleeper], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert child.is_running()
        parent.kill()
    gone, alive = psutil.wait_procs([child], timeout=HANGS_S)
    assert gone or all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_process_whose_parent_is_gone_does_not_start() -> None:
    command = tether.launcher()
    command[-1] = "1"
    assert subprocess.run([*command, "true"], check=False).returncode == 1


@pytest.mark.parametrize(
    ("cpus", "workers", "children"), [(8, 1, [8]), (8, 3, [3, 3, 2]), (2, 2, [1, 1]), (2, 3, [1, 1, 1])]
)
def test_workers_share_the_cpus(cpus: int, workers: int, children: list[int]) -> None:
    assert shares(cpus, workers) == children
