"""docker-compose.yml for real: one worker more, one killed, Redis restarted during a batch, and all slides done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from tests.artifacts import coloured_file, publish_tiny
from tests.sources import ROOT
from tests.waiting import until

PROJECT = "gramserve-test"
PROMETHEUS_PORT = "19090"
SLIDES = 400

pytestmark = [
    pytest.mark.skipif(not os.environ.get("GRAMSERVE_TEST_COMPOSE"), reason="make test-compose runs this, with Docker"),
    pytest.mark.timeout(1800),
]


def docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


class Stack:
    """The project of this test, without the optimizer, whose image takes ten minutes to build."""

    def __init__(self) -> None:
        self._command = ["docker-compose"] if shutil.which("docker-compose") else ["docker", "compose"]
        ports = {"GRAMSERVE_GATEWAY_PORT": "0", "GRAMSERVE_PROMETHEUS_PORT": PROMETHEUS_PORT}
        self._environment = {**os.environ, **ports}

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [*self._command, "-p", PROJECT, *words]
        return subprocess.Popen(
            command,
            cwd=ROOT,
            env=self._environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *words: str) -> str:
        running = self.start(*words)
        said, _ = running.communicate()
        assert running.returncode == 0, said
        return said

    def containers(self, service: str) -> list[str]:
        return self.run("ps", "-q", service).split()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    made = Stack()
    for target in ("gateway", "worker"):
        docker(
            *("build", "--quiet", "--network", "host", "-f", str(ROOT / "deploy/docker/Dockerfile")),
            *("--target", target, "-t", f"gramserve-{target}", str(ROOT)),
        )
    try:
        made.run("up", "-d", "--no-build", "--scale", "worker=2", "redis", "gateway", "worker", "prometheus")
        yield made
    finally:
        made.run("down", "--volumes", "--timeout", "10")


async def test_I1_every_slide_is_done_though_a_worker_is_killed_and_redis_restarted(
    stack: Stack, tmp_path: Path
) -> None:
    await publish_tiny(Registry(open_store(str(tmp_path / "store"))))
    slides = tmp_path / "slides"
    slides.mkdir()
    for number in range(SLIDES):  # of a size each, so that no two have the same pixels
        (slides / f"{number:03d}.png").write_bytes(coloured_file("GNR", 64 + number % 20, 64 + number // 20))
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    docker(
        *("run", "--rm", "-v", f"{PROJECT}_store:/to", "-v", f"{tmp_path / 'store'}:/from:ro", "gramserve-gateway"),
        *("cp", "-r", "/from/models", "/to/"),
    )
    files = [f"/slides/{path.name}" for path in sorted(slides.iterdir())]
    submitting = stack.start(
        *("run", "--rm", "-T", "-v", f"{slides}:/slides:ro", "client", "submit", *files, "--model", "gram", "--wait")
    )
    assert submitting.stdout is not None
    said = ""
    while "accepted" not in said:
        line = submitting.stdout.readline()
        assert line, said
        said += line
    docker("kill", stack.containers("worker")[0])
    stack.run("up", "-d", "--no-build", "--scale", "worker=3", "worker")
    stack.run("restart", "redis")
    rest, _ = submitting.communicate()
    assert submitting.returncode == 0, rest
    assert f"{SLIDES} slides: {SLIDES} succeeded" in rest
    assert len(stack.containers("worker")) == 3
    assert " are whole" in docker(
        *("run", "--rm", "-v", f"{PROJECT}_store:/store", "gramserve-gateway"),
        *("gramserve", "audit", "verify", "--store", "/store"),
    )


async def test_every_replica_is_scraped_over_TLS(stack: Stack) -> None:
    def up() -> dict[str, int]:
        url = f"http://127.0.0.1:{PROMETHEUS_PORT}/api/v1/query?query=sum%20by%20(job)%20(up)"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)["data"]["result"]
        return {one["metric"]["job"]: int(one["value"][1]) for one in found}

    await until(lambda: up() == {"gateway": 1, "worker": 3}, 120, "one gateway and three workers scraped")


@pytest.mark.parametrize(("service", "most_mb"), [("gateway", 105), ("worker", 515)])
def test_images_stay_small(stack: Stack, service: str, most_mb: int) -> None:
    """What an image holds beside its base, with which its size as a whole differs."""
    said = docker(
        "run", "--rm", f"gramserve-{service}", "du", "-s", "--apparent-size", "--block-size=1000000", "/opt/gramserve"
    )
    assert int(said.split()[0]) <= most_mb


def test_nothing_runs_as_root_or_can_write_its_root(stack: Stack) -> None:
    for service in ("redis", "gateway", "worker", "prometheus"):
        for container in stack.containers(service):
            form = "{{.Config.User}} {{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapDrop}}"
            assert docker("inspect", "-f", form, container).strip() == "10001:10001 true [ALL]", service
