"""Starts one server at a time, as its own process group, and counts what its processes use."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.catalogue import Peer
from benchmarks.peers.environments import python
from benchmarks.stack import Usage, free_port

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STOP_S = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    """A server under way: where it answers, and the process that all of its processes descend from."""

    target: str
    process: psutil.Process

    def usage(self) -> Usage:
        """CPU seconds and resident MiB of the whole tree, now."""
        cpu_s, rss_mib, count = 0.0, 0.0, 0
        for process in tree(self.process):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                cpu_s += times.user + times.system
                rss_mib += process.memory_info().rss / 2**20
                count += 1
        return Usage(cpu_s, rss_mib, count)


@contextlib.contextmanager
def serving(peer: Peer, model: Path, edge: int, cores: int) -> Iterator[Server]:
    """`peer` serving `model` until the block ends; it may not answer yet when the block begins."""
    port, spare = free_port(), free_port()
    command = [str(python(peer.folder)), "-m", f"benchmarks.peers.{peer.folder}.server", f"--model={model}"]
    command += [f"--edge={edge}", f"--port={port}", f"--spare-port={spare}", f"--cores={cores}"]
    with tempfile.TemporaryDirectory() as scratch, (Path(scratch) / "log").open("wb") as log:
        # The peer's own folder holds modules that it needs under their bare names.
        path = os.pathsep.join((str(ROOT), str(HERE / peer.folder)))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | dict(peer.variables)
        process = subprocess.Popen(command, cwd=scratch, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield Server(f"127.0.0.1:{port}", psutil.Process(process.pid))
        finally:
            stop(process)


def tree(root: psutil.Process) -> list[psutil.Process]:
    """A process and all that descend from it, as far as they are alive."""
    try:
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def stop(process: subprocess.Popen[bytes]) -> None:
    """Asks a server to end; what is left of its tree after a while is killed."""
    with contextlib.suppress(psutil.NoSuchProcess):
        descendants = tree(psutil.Process(process.pid))
        process.terminate()
        _gone, left = psutil.wait_procs(descendants, timeout=STOP_S)
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
    process.wait()
