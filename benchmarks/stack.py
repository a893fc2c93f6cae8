"""The real stack for a benchmark: `gramserve up` as a subprocess, with the CPU and memory of each of its processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

ROLES = {
    "inference_svc.child": "child",
    "inference_svc": "worker parent",
    "gateway": "gateway",
    "optimizer_svc": "optimizer",
    "redis-server": "redis",
    "up": "supervisor",
}


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and resident MiB of the processes of one role."""

    cpu_s: float
    rss_mib: float
    processes: int


class Stack:
    """A running stack; `target` is the address of its gateway, `store` the folder of its store."""

    def __init__(self, process: subprocess.Popen[str], port: int, data_dir: Path) -> None:
        self._process = psutil.Process(process.pid)
        self.target = f"127.0.0.1:{port}"
        self.store = data_dir / "store"

    def usage(self) -> dict[str, Usage]:
        """Usage by role, now."""
        found: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for process in [self._process, *self._process.children(recursive=True)]:
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


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(data_dir: Path, *options: str) -> Iterator[Stack]:
    """`gramserve up` on `data_dir` until the block ends."""
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("gramserve")),
        "up",
        f"--data-dir={data_dir}",
        f"--gateway-port={port}",
        *options,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.strip().startswith("ready"):
                break
        else:
            raise RuntimeError("the stack did not start: " + "".join(lines))
        yield Stack(process, port, data_dir)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
