"""Starting the service: on which ground it refuses to, and what it loads."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc.aio
import pytest

from gramserve.errors import InvalidInput, Reason, Unavailable, Unsafe
from gramserve.queue import connect
from gramserve.settings import load
from optimizer_svc.app import App
from optimizer_svc.settings import OptimizerSettings
from tests.optimizer_service.conftest import Bench
from tests.waiting import HANGS_S, until

ROOT = Path(__file__).parents[2]


def test_the_service_never_loads_torch_nor_anything_that_computes() -> None:
    code = (
        "import sys\nimport optimizer_svc.__main__, optimizer_svc.app\n"
        "heavy = {'torch', 'timm', 'numpy', 'onnx', 'onnxruntime', 'cv2', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=HANGS_S, check=False
    )
    assert done.returncode == 0, done.stderr


async def test_I15_a_redis_that_evicts_is_refused(bench: Bench) -> None:
    redis = connect(bench.redis.url)
    await redis.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(Unsafe) as caught:
            await App(bench.settings()).start()
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
        await redis.aclose()
    assert caught.value.reason is Reason.UNSAFE_REDIS


async def test_a_redis_that_is_not_there_is_named(bench: Bench) -> None:
    with pytest.raises(Unavailable) as caught:
        await App(bench.settings(redis_url=f"unix://{bench.folder}/no.sock")).start()
    assert caught.value.reason is Reason.QUEUE_UNAVAILABLE


@pytest.mark.parametrize("name", ["store_url", "work_folder"])
async def test_I15_a_folder_that_cannot_be_written_is_refused(bench: Bench, name: str) -> None:
    (bench.folder / "file").write_bytes(b"")
    with pytest.raises(Unsafe) as caught:
        await App(bench.settings(**{name: str(bench.folder / "file" / "x")})).start()
    assert caught.value.reason is Reason.UNSAFE_STORE


async def test_a_taken_port_is_refused_and_nothing_stays_open(bench: Bench) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for name, value in (
            ("listen", f"127.0.0.1:{taken.getsockname()[1]}"),
            ("metrics_port", taken.getsockname()[1]),
        ):
            with pytest.raises(Unsafe) as caught:
                await App(bench.settings(**{name: value})).start()
            assert caught.value.reason is Reason.INVALID_SETTINGS


def test_an_allowed_root_must_be_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRAMSERVE_OPTIMIZER_ALLOWED_ROOTS", "/data,here")
    with pytest.raises(InvalidInput, match="absolute"):
        load(OptimizerSettings)


def _environment(bench: Bench, **more: str) -> dict[str, str]:
    own = {
        "GRAMSERVE_STORE_URL": str(bench.folder / "store"),
        "GRAMSERVE_REDIS_URL": bench.redis.url,
        "GRAMSERVE_OPTIMIZER_WORK_FOLDER": str(bench.folder / "work"),
        "GRAMSERVE_OPTIMIZER_LISTEN": "127.0.0.1:0",
        "GRAMSERVE_OPTIMIZER_METRICS_PORT": "-1",
    }
    return {**os.environ, **own, **more}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_I14_a_signal_ends_the_process_in_order(bench: Bench, number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "optimizer_svc"), env=_environment(bench), cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    ready = json.loads(await asyncio.wait_for(process.stderr.readline(), HANGS_S))
    assert ready["event"] == "ready"
    assert ready["service"] == "optimizer"
    async with grpc.aio.insecure_channel(f"127.0.0.1:{ready['port']}") as channel:
        await asyncio.wait_for(channel.channel_ready(), HANGS_S)
    process.send_signal(number)
    assert await asyncio.wait_for(process.wait(), HANGS_S) == 0
    assert b"Traceback" not in await process.stderr.read()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"GRAMSERVE_OPTIMIZER_LISTNE": "x"}, "did you mean GRAMSERVE_OPTIMIZER_LISTEN"),
        ({"GRAMSERVE_REDIS_URL": "unix:///nowhere/redis.sock"}, "QUEUE_UNAVAILABLE"),
    ],
)
def test_a_start_that_fails_is_one_line_and_exit_2(bench: Bench, more: dict[str, str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "optimizer_svc"],
        env=_environment(bench, **more),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
        check=False,
    )
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


async def test_metrics_are_shown_where_the_settings_say(bench: Bench) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with bench.service(metrics_port=port):
        url = f"http://127.0.0.1:{port}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=HANGS_S).read().decode())
    assert "gramserve_queue_contact 1.0" in text


async def test_I11_readiness_follows_contact_with_redis(bench: Bench, tmp_path: Path) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from gramserve.queue import EmbeddedRedis
    from tests.optimizer_service.conftest import State

    redis = EmbeddedRedis(tmp_path / "redis")
    await redis.start()
    try:
        async with bench.service(redis_url=redis.url) as caller:
            stub = health_pb2_grpc.HealthStub(caller.channel)

            async def healthy() -> bool:
                status = (await stub.Check(health_pb2.HealthCheckRequest())).status
                return bool(status == health_pb2.HealthCheckResponse.SERVING)

            async def unhealthy() -> bool:
                return not await healthy()

            assert await healthy()
            await redis.stop()
            await until(unhealthy)
            await redis.start()
            await until(healthy)
            created = await caller.create("finishes")
            assert (await caller.ended(created.name)).state == State.STATE_SUCCEEDED
    finally:
        await redis.stop()


async def test_I10_a_create_without_redis_says_to_try_again_and_is_not_lost(bench: Bench, tmp_path: Path) -> None:
    from gramserve.queue import EmbeddedRedis
    from tests.optimizer_service.conftest import State, answer, refused

    redis = EmbeddedRedis(tmp_path / "redis")
    await redis.start()
    try:
        async with bench.service(redis_url=redis.url) as caller:
            request = await caller.request("finishes")
            await redis.stop()
            error = await refused(answer(caller.stub.CreateOptimization(request)))
            assert isinstance(error, Unavailable)
            assert error.retry_after_s
            await redis.start()
            created = await answer(caller.stub.CreateOptimization(request))
            assert (await caller.ended(created.name)).state == State.STATE_SUCCEEDED
    finally:
        await redis.stop()
