"""What the doctor says of a machine: each check is made to fail by a machine that is really so."""

from __future__ import annotations

import asyncio
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest

from gramserve.cli.checks import machine
from gramserve.cli.checks.finding import Health
from gramserve.cli.checks.peers import check_peer
from gramserve.tls.service import Tls
from tests.faults.disks import Disk, SmallDisk, small_disk
from tests.operations.doctor import doctor

FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({}, 8192))"
ONE_CPU = "import os; os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])"
# This process loses the system call of landlock, as in a container whose profile does not know it.
NO_LANDLOCK = """
from gramserve.sandbox import seccomp
seccomp.numbers().calls["landlock"] = 444
seccomp.NEVER = seccomp.NETWORK = ()
seccomp.ABSENT = ("landlock",)
seccomp.filter_calls()
"""


@pytest.mark.parametrize(("files", "health", "code"), [(4096, "ok", 0), (1024, "warning", 0), (300, "failed", 1)])
async def test_few_open_files(files: int, health: str, code: int, tmp_path: Path) -> None:
    said = await doctor(tmp_path, before=FEW_FILES.format(files))
    assert (said.health("file limit"), said.code) == (health, code)
    if health != "ok":
        assert "LimitNOFILE" in said.advice("file limit")


async def test_cpus_that_are_there_and_may_not_be_used(tmp_path: Path) -> None:
    said = await doctor(tmp_path, before=ONE_CPU)
    assert said.found("cpu").startswith("1 of ")
    if not said.found("cpu").startswith("1 of 1 "):
        assert said.health("cpu") == "warning"
        assert "affinity" in said.advice("cpu")


@pytest.mark.parametrize(("flags", "health"), [("sse4_2", "warning"), ("avx2", "warning"), ("avx2 avx_vnni", "ok")])
def test_a_cpu_without_int8_instructions(flags: str, health: str, tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    found = machine.check_cpu(tmp_path / "cpuinfo")
    assert found.health == health
    assert health == "ok" or "VNNI" in found.advice


def test_children_that_would_not_find_enough_memory() -> None:
    assert machine.check_memory(1).health is Health.OK
    found = machine.check_memory(100_000)
    assert found.health is Health.FAILED
    assert "GRAMSERVE_WORKER_CHILDREN" in found.advice


async def test_memory_is_judged_for_the_children_that_the_settings_ask_for(tmp_path: Path) -> None:
    said = await doctor(tmp_path, environment={"GRAMSERVE_WORKER_CHILDREN": "3"})
    assert said.found("memory").endswith("for each of 3 children")


async def test_a_kernel_that_lacks_a_protection(tmp_path: Path) -> None:
    if "landlock" not in (await doctor(tmp_path)).found("sandbox"):
        pytest.skip("this kernel has no landlock to lose")
    said = await doctor(tmp_path, "--redis-url", "redis://127.0.0.1:1", before=NO_LANDLOCK)
    assert (said.health("sandbox"), said.found("sandbox")) == ("warning", "landlock missing")


async def test_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        said = await doctor(_of(disk).folder)
        assert (said.code, said.health("disk"), said.health("store space")) == (1, "failed", "failed")
        assert "gramserve purge" in said.advice("store space")


async def test_a_named_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    typo = tmp_path / "typo" / "store"
    for url in (str(typo), f"file://{typo}"):
        said = await doctor(tmp_path, "--store-url", url)
        assert (said.code, said.health("store")) == (0, "ok")
        assert said.found("store").endswith("is not there yet; it can be made")
    assert not typo.parent.exists()


async def test_a_store_on_a_full_and_on_a_read_only_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        _of(disk).fill()
        said = await doctor(tmp_path, "--store-url", str(_of(disk).folder))
        assert (said.code, said.health("store")) == (1, "failed")
        assert "No space left" in said.found("store")
        _of(disk).empty()
        assert _of(disk).remount("ro")
        said = await doctor(tmp_path, "--store-url", str(_of(disk).folder))
        assert (said.code, said.health("store")) == (1, "failed")
        assert "GRAMSERVE_STORE_URL" in said.advice("store")


async def test_a_disk_that_takes_long_to_write(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "faults")
    disk.slow("fsync", seconds=0.06)
    before = "from tests.faults import on_disk"
    said = await doctor(tmp_path, environment=disk.options["environment"], before=before)
    assert (said.code, said.health("store"), said.health("store speed")) == (0, "ok", "warning")
    assert "SSD" in said.advice("store speed")
    assert not list((tmp_path / "store").rglob("probe/*")), "the doctor left something in the store"


async def test_an_s3_that_does_not_answer_is_told_in_time(tmp_path: Path) -> None:
    aws = {
        "AWS_ENDPOINT": "http://127.0.0.1:1",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-hospital",
        "AWS_REGION": "eu",
    }
    before = "from gramserve.cli.checks import stores; stores.check_store.__kwdefaults__['patience_s'] = 3.0"
    said = await doctor(tmp_path, "--store-url", "s3://bucket/prefix", environment=aws, before=before)
    assert (said.code, said.health("store")) == (1, "failed")
    assert "AWS_ENDPOINT" in said.advice("store")
    assert "secret-of-the-hospital" not in str(said)


@contextmanager
def service(release: str) -> Iterator[str]:
    """The address of metrics that tell this release."""

    class Metrics(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f'# HELP gramserve_build_info\ngramserve_build_info{{version="{release}"}} 1.0\n'.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Metrics)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


async def test_a_service_of_another_release(tmp_path: Path) -> None:
    with service(version("gramserve")) as same, service("0.0.9") as older:
        said = await doctor(tmp_path, "--peer", same, "--peer", older)
    assert said.health(f"service at {same}") == "ok"
    assert said.health(f"service at {older}") == "warning"
    assert "gramserve 0.0.9, here" in said.found(f"service at {older}")
    assert said.health(f"clock of {older}") == "ok"


async def test_a_service_whose_clock_is_another() -> None:
    with service("0.0.9") as url:
        found = await check_peer(url, Tls(), clock=lambda: time.time() + 90.0)
    (clock,) = [one for one in found if one.name.startswith("clock")]
    assert clock.health is Health.FAILED
    assert "behind" in clock.found


async def test_an_address_of_something_else_that_tells_no_time() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.0 200 OK\r\n\r\nhello")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/metrics"
        found = await check_peer(url, Tls())
    assert [(one.name, one.health) for one in found] == [(f"service at {url}", Health.FAILED)]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/metrics", "file:///etc/passwd", "nothing"])
async def test_a_service_that_cannot_be_asked(url: str, tmp_path: Path) -> None:
    said = await doctor(tmp_path, "--peer", url)
    assert (said.code, said.health(f"service at {url}")) == (1, "failed")


def _of(disk: SmallDisk | None) -> SmallDisk:
    if disk is None:
        pytest.skip("this user may not mount a file system")
    return disk


def test_the_limits_of_this_test_are_those_of_the_doctor() -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= machine.ENOUGH_FILES
