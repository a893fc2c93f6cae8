"""The real stack for a benchmark: `gramserve up` as a subprocess, with the CPU and memory of each of its processes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import psutil
from prometheus_client.parser import text_string_to_metric_families

from gramserve.queue.embedded import EmbeddedRedis

ROLES = {
    "inference_svc.child": "child",
    "inference_svc": "worker parent",
    "gateway": "gateway",
    "optimizer_svc": "optimizer",
    "gramserve.night": "night report",
    "redis-server": "redis",
    "up": "supervisor",
}

# How `gramserve up` says where a service listens.
ADDRESS = re.compile(r"(\S+) +(127\.0\.0\.1:\d+), log in ")


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and resident MiB of the processes of one role."""

    cpu_s: float
    rss_mib: float
    processes: int


class Stack:
    """A running stack.

    `addresses` says where each service listens ("gateway", "worker-1", ...), `target` is that of the gateway, `metrics`
    is the port of the gateway's metrics (the workers' follow), `store` the folder of its store, `redis_url` its Redis,
    `process` its supervisor.
    """

    def __init__(self, process: psutil.Process, addresses: dict[str, str], metrics: int, data_dir: Path) -> None:
        self.process = process
        self.addresses = addresses
        self.target = addresses["gateway"]
        self.metrics = metrics
        self.store = data_dir / "store"
        self.redis_url = EmbeddedRedis(data_dir / "redis").url

    def usage(self) -> dict[str, Usage]:
        """Usage by role, now."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for process in [self.process, *self.process.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                role = next((ROLES[key] for key in ROLES if any(Path(word).name == key for word in words)), None)
                if role is None and "redis-server" in " ".join(words):
                    role = "redis"
                times = process.cpu_times()
                found[role or "other"].append((times.user + times.system, process.memory_info().rss / 2**20))
        return {
            role: Usage(sum(c for c, _ in all_), sum(m for _, m in all_), len(all_)) for role, all_ in found.items()
        }

    def stages(self) -> dict[str, float]:
        """Seconds of all slides so far in each stage, as the first worker's metrics have them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics + 1}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        return {
            sample.labels["stage"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "gramserve_slide_stage_seconds_sum"
        }


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on now."""
    while True:
        first = free_port()
        with contextlib.suppress(OSError, OverflowError), contextlib.ExitStack() as probes:
            for port in range(first, first + count):
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            if first + count <= 65000:
                return first


@contextlib.contextmanager
def running(data_dir: Path, *options: str, variables: Mapping[str, str] = MappingProxyType({})) -> Iterator[Stack]:
    """`gramserve up` on `data_dir` until the block ends; `variables` are added to the environment."""
    metrics = _free_ports(5)
    command = [
        str(Path(sys.executable).with_name("gramserve")),
        "up",
        f"--data-dir={data_dir}",
        "--gateway-port=0",
        "--optimizer-port=0",
        f"--metrics-port={metrics}",
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | dict(variables))
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.strip().startswith("ready"):
                break
        else:
            raise RuntimeError("the stack did not start: " + "".join(lines))
        found = (ADDRESS.match(line) for line in lines)
        addresses = {match[1]: match[2] for match in found if match}
        yield Stack(psutil.Process(process.pid), addresses, metrics, data_dir)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
