"""What reads the files of others cannot get out: tried from inside real children and a real job process."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gramserve import sandbox
from gramserve.queue import EmbeddedRedis
from gramserve.sandbox import seccomp, syscalls
from gramserve.sandbox.confine import PROTECTIONS
from gramserve.store.layout import reuse_path, slide_path
from gramserve.store.records import SlideState
from gramserve.store.reuse import reuse_key
from inference_svc.child import HOOK
from optimizer_svc.messages import Failed
from optimizer_svc.process import JobProcess, job_environment
from optimizer_svc.records import JobRecord
from tests.doors import escapes
from tests.inference.bench import LABORATORY, ROOT, Bench
from tests.waiting import HANGS_S, until

LACKING = sandbox.missing()
confined = pytest.mark.skipif(bool(LACKING), reason=f"this kernel lacks {' and '.join(LACKING)}")
STOPPED_BY_LIMITS = {"core"}


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of the confined processes; all else of the test lies beside it."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setenv(escapes.REPORT, str(folder / "report"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return folder


async def report(temp: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        await until(lambda: (temp / "report").exists() and (temp / "report").read_text())
    )
    return found


def escaped(outcome: dict[str, str]) -> list[str]:
    return [name for name, error in outcome.items() if not error and name not in escapes.ALLOWED]


def test_every_attempt_works_where_nothing_is_confined(tmp_path: Path) -> None:
    """Else the others would prove nothing."""
    store = tmp_path / "store"
    store.mkdir()
    (store / "object").write_bytes(b"x")
    code = "import os\nfrom tests.doors import escapes\nescapes.try_all(os.getppid())"
    environment = {**os.environ, escapes.REPORT: str(tmp_path / "report"), escapes.STORE: str(store)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True, timeout=HANGS_S)
    outcome = json.loads((tmp_path / "report").read_text())["report"]
    free = {"unix socket", "netlink", "program", "fork", "kill", "limits of the parent", "write", "remove", "rename"}
    assert free <= set(escaped(outcome))
    assert (outcome["IPv4"], outcome["replace"]) == ("ConnectionRefusedError", "FileNotFoundError")


@confined
async def test_a_child_cannot_get_out(bench: Bench, temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOOK, "tests.doors.escapes:in_child")
    monkeypatch.setenv(escapes.STORE, str(bench.folder / "store"))
    version = await bench.publish()
    await bench.submit([await bench.field()], version)
    async with bench.worker(children=1, slide_cpu_s=100.0):
        found = await report(temp)
        outcomes = await bench.ended()
    assert escaped(found["report"]) == []
    assert {found["report"][name] for name in ("IPv4", "replace")} == {"PermissionError"}
    assert {name: found["report"][name] for name in escapes.ALLOWED} == dict.fromkeys(escapes.ALLOWED, "")
    assert found["limits"] == {"RLIMIT_FSIZE": [2**20, 2**20], "RLIMIT_NOFILE": [512, 512]}
    assert 100 < found["cpu"][0] < 200
    # And what it is there for still works.
    assert outcomes[0].state is SlideState.SUCCEEDED


@confined
async def test_a_job_of_the_optimizer_cannot_get_out(
    tmp_path: Path, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, workspace = tmp_path / "store", tmp_path / "workspace"
    for folder in (store, workspace):
        folder.mkdir()
    (store / "object").write_bytes(b"x")
    monkeypatch.setenv(escapes.STORE, str(store))
    job = JobRecord(
        checkpoint="c", data="d", architecture="a", labels=(), model="m", budget_minutes=1.0, margin=0.0,
        allow_unproved=False, keep_macs=0.0, seed=0, cores=0, nice=0,
    )  # fmt: skip
    (workspace / "job.json").write_bytes(job.to_json())
    command = (sys.executable, "-m", "tests.doors.escaping_job")
    process = await JobProcess.start(command, workspace, job_environment(os.environ))
    said = [message async for message in process.messages()]
    assert await process.ended() == "exit status 0"
    assert isinstance(said[-1], Failed)
    assert escaped((await report(temp))["report"]) == []


async def test_cpu_time_without_end_fails_the_slide_with_its_reason(
    bench: Bench, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel ends the child, inside a call that never comes back to Python; neighbours are not charged."""
    monkeypatch.setenv(HOOK, "tests.doors.test_sandbox:spin_if_told")
    version = await bench.publish()
    images = [await bench.field() for _ in range(4)]
    monkeypatch.setenv(POISON, images[1].sha256)
    await bench.submit(images, version)
    async with bench.worker(slide_cpu_s=3.0, max_attempts=2):
        outcomes = await bench.ended()
    poison = outcomes.pop(1)
    assert poison.error is not None
    assert (poison.state, poison.error.reason, poison.attempts) == (SlideState.FAILED, "CPU_TIME_EXCEEDED", 2)
    assert {(outcome.state, outcome.attempts) for outcome in outcomes.values()} == {(SlideState.SUCCEEDED, 1)}


POISON = "GRAMSERVE_TEST_POISON"


def spin_if_told(work: Any) -> None:
    if work.images[0].sha256 == os.environ[POISON]:
        escapes.spin(work)


async def test_cpu_time_is_counted_for_each_slide_anew(
    bench: Bench, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A child that used more than the limit altogether lives on."""
    monkeypatch.setenv(HOOK, "tests.doors.test_sandbox:work_half_a_second")
    version = await bench.publish()
    await bench.submit([await bench.field() for _ in range(8)], version)
    async with bench.worker(children=1, slide_cpu_s=3.0, max_attempts=1) as worker:
        outcomes = await bench.ended()
        assert worker.metrics.registry.get_sample_value("gramserve_child_restarts_total") == 0
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}


def work_half_a_second(work: Any) -> None:
    import time

    until_s = time.process_time() + 0.5
    while time.process_time() < until_s:
        pass


def test_a_kernel_without_protections_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], configure_log: Callable[..., None]
) -> None:
    from gramserve.metrics import Metrics
    from gramserve.sandbox import landlock

    configure_log("test")
    monkeypatch.setattr(seccomp, "available", lambda: False)
    metrics = Metrics()
    sandbox.report(metrics)
    assert capsys.readouterr().err.count("lacks") == 1
    shown = {
        name: metrics.registry.get_sample_value("gramserve_sandbox_missing", {"protection": name})
        for name in PROTECTIONS
    }
    assert shown == {"seccomp": 1.0, "landlock": float(not landlock.available())}


def test_a_process_goes_on_where_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this process may be confined here: both are replaced by kernels that refuse."""

    def refused(*_given: object, **_options: object) -> None:
        raise OSError

    monkeypatch.setattr("gramserve.sandbox.landlock.write_only_below", refused)
    monkeypatch.setattr(seccomp, "filter_calls", refused)
    sandbox.confine(writable=[])


@confined
async def test_with_a_store_on_S3_a_child_cannot_get_out_either_and_has_no_keys(
    session_redis: EmbeddedRedis, s3_url: str, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, "tests.doors.escapes:in_child")
    elsewhere = temp.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "object").write_bytes(b"x")
    monkeypatch.setenv(escapes.STORE, str(elsewhere))
    bench = Bench(temp.parent, session_redis.url, store_url=s3_url)
    await bench.redis.flushall()
    version = await bench.publish()
    await bench.submit([await bench.field()], version)
    async with bench.worker(children=1):
        found = await report(temp)
        outcomes = await bench.ended()
    await bench.close()
    assert escaped(found["report"]) == []
    assert not [name for name in found["environment"] if name.startswith("AWS_")]
    assert outcomes[0].state is SlideState.SUCCEEDED


async def test_with_a_store_on_S3_a_child_gets_what_its_slide_names_and_nothing_else(
    session_redis: EmbeddedRedis, s3_url: str, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, "tests.doors.escapes:ask_for_more")
    bench = Bench(temp.parent, session_redis.url, store_url=s3_url)
    await bench.redis.flushall()
    version, mine, other = await bench.publish(), await bench.field(), await bench.field()
    monkeypatch.setenv(escapes.NOT_MINE, other.sha256)
    await bench.submit([mine], version)
    async with bench.worker(children=1):
        found = await report(temp)
        outcomes = await bench.ended()
        earlier = reuse_path(LABORATORY, reuse_key(version.digest, [mine], ""))
        await until(lambda: bench.objects.size(earlier))
        await bench.objects.delete(slide_path(LABORATORY, mine.sha256))
        await bench.submit([mine], version, batch="b2")
        again = await bench.ended("b2")
    await bench.close()
    assert found["got"] == found["asked"][:2]
    assert outcomes[0].state is SlideState.SUCCEEDED
    assert again[0].reused


@pytest.mark.skipif(platform.machine() != "x86_64" or "seccomp" in LACKING, reason="calls of i386 exist on x86-64 only")
def test_calls_under_their_other_numbers_are_refused_too() -> None:
    code = """
import ctypes, errno
from collections.abc import Callable
from pathlib import Path
from gramserve.sandbox import confine
libc = ctypes.CDLL(None, use_errno=True)
confine(writable=[])
assert libc.syscall(0x40000000 + 41, 2, 1, 0) == -1  # socket of the x32 ABI
assert ctypes.get_errno() == errno.EPERM, ctypes.get_errno()
assert libc.syscall(425, 8, 0) == -1  # io_uring could open sockets behind the filter
assert ctypes.get_errno() == errno.ENOSYS
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=HANGS_S)


def test_both_processors_refuse_the_same_calls() -> None:
    """aarch64 has no fork and vfork: there they are clone."""
    assert set(syscalls.X86_64.calls) - set(syscalls.AARCH64.calls) == {"fork", "vfork"}
    named = {*syscalls.NEVER, *syscalls.ABSENT, *syscalls.NETWORK, *syscalls.OF_ITSELF, "clone", "seccomp"}
    assert named == set(syscalls.X86_64.calls)
