"""I15: a worker refuses unsafe ground with one line; settings are typed."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gramserve.errors import InvalidInput
from gramserve.settings import load
from inference_svc.process import child_environment
from inference_svc.settings import WorkerSettings
from tests.inference.bench import ROOT, Bench


async def _refusal(bench: Bench, **environment: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "inference_svc"),
        env={
            **os.environ,
            "GRAMSERVE_STORE_URL": bench.store_url,
            "GRAMSERVE_REDIS_URL": bench.redis_url,
            "GRAMSERVE_WORKER_LISTEN": "127.0.0.1:0",
            "GRAMSERVE_WORKER_METRICS_PORT": "-1",
            "GRAMSERVE_LOG_LEVEL": "ERROR",
            **environment,
        },
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    _, stderr = await process.communicate()
    assert process.returncode == 2
    return stderr.decode()


async def test_I15_an_evicting_redis_is_refused_with_one_line(bench: Bench) -> None:
    await bench.redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        said = await _refusal(bench)
    finally:
        await bench.redis.config_set("maxmemory-policy", "noeviction")
    assert said.count("\n") == 1
    assert "noeviction" in said


async def test_I15_a_store_that_cannot_be_written_is_refused_with_one_line(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = await _refusal(bench, GRAMSERVE_STORE_URL=str(tmp_path / "file" / "store"))
    assert said.count("\n") == 1
    assert "not writable" in said


async def test_a_metrics_port_that_is_taken_is_refused_with_one_line(bench: Bench) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = await _refusal(bench, GRAMSERVE_WORKER_METRICS_PORT=str(taken.getsockname()[1]))
    assert "is the port taken?" in said


async def test_an_unknown_setting_is_refused_with_the_nearest_name(bench: Bench) -> None:
    said = await _refusal(bench, GRAMSERVE_WORKER_CHILDRENS="2")
    assert "GRAMSERVE_WORKER_CHILDREN?" in said


def test_allowed_roots_must_be_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInput, match="absolute"):
        load(WorkerSettings, allowed_roots=("scans",))


def test_children_know_neither_the_queue_nor_a_signing_key_and_use_one_thread() -> None:
    ours = {"GRAMSERVE_REDIS_URL": "redis://secret", "GRAMSERVE_OPTIMIZER_SIGNING_KEY": "pkcs11:x?pin-value=secret"}
    environment = child_environment(ours | {"PATH": "/bin"}, 1000)
    assert "secret" not in str(environment)
    assert (environment["PATH"], environment["OMP_NUM_THREADS"]) == ("/bin", "1")


def test_the_worker_itself_needs_neither_numpy_nor_an_engine() -> None:
    code = "import sys, inference_svc.app; print({'numpy', 'cv2', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
