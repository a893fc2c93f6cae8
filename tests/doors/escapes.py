"""What hostile code inside a confined process would try; how each attempt ended goes into a file for the test."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gramserve.errors import NotFound
from inference_svc.lending import BorrowedObjects
from inference_svc.protocol import RunShadow, RunSlide

REPORT = "GRAMSERVE_TEST_ESCAPES"
"""Where the report goes: a file in a folder that the process may write."""
STORE = "GRAMSERVE_TEST_STORE"
"""A folder that it may read and not write."""
NOT_MINE = "GRAMSERVE_TEST_NOT_MINE"
"""The digest of an image of another slide."""


def attempts(parent: int, store: Path) -> dict[str, Callable[[], Any]]:
    return {
        "IPv4": lambda: socket.create_connection(("127.0.0.1", 9), 0.1),
        "IPv6": lambda: socket.socket(socket.AF_INET6),
        "UDP": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
        "unix socket": lambda: socket.socket(socket.AF_UNIX),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        "vsock": lambda: socket.socket(socket.AF_VSOCK),
        "program": lambda: subprocess.run(["/bin/true"], check=True),
        "replace": lambda: os.execv("/no/such/program", ["program"]),
        "fork": _fork,
        "kill": lambda: os.kill(parent, signal.SIGCONT),
        "kill all": lambda: os.kill(-1, 0),
        "limits of the parent": lambda: resource.prlimit(parent, resource.RLIMIT_CORE),
        "memory of the parent": lambda: Path(f"/proc/{parent}/mem").open("rb"),
        "write": lambda: (store / "planted").write_bytes(b"x"),
        "remove": lambda: next(path for path in store.rglob("*") if path.is_file()).unlink(),
        "rename": lambda: store.rename(store.with_name("elsewhere")),
        "fifo": lambda: os.mkfifo(store / "fifo"),
        "core": lambda: resource.setrlimit(resource.RLIMIT_CORE, (2**20, 2**20)),
    }


ALLOWED: dict[str, Callable[[], Any]] = {
    "thread": lambda: threading.Thread(target=int).start(),
    "read": lambda: Path(os.environ[STORE]).iterdir(),
    "temporary file": lambda: Path(os.environ[REPORT]).with_suffix(".tmp").write_bytes(b"x"),
    "itself": lambda: os.kill(os.getpid(), 0),
}


def try_all(parent: int) -> None:
    """Writes the report: for each attempt the name of its error, or "" when it worked."""
    report = {
        name: _outcome(attempt) for name, attempt in {**attempts(parent, Path(os.environ[STORE])), **ALLOWED}.items()
    }
    limits = {name: resource.getrlimit(getattr(resource, name)) for name in ("RLIMIT_FSIZE", "RLIMIT_NOFILE")}
    file = Path(os.environ[REPORT])
    whole = file.with_suffix(".part")
    said = {"report": report, "limits": limits, "cpu": resource.getrlimit(resource.RLIMIT_CPU)}
    whole.write_text(json.dumps({**said, "environment": sorted(os.environ)}))
    whole.rename(file)


def in_child(_work: RunSlide | RunShadow) -> None:
    """A child's hook: see inference_svc.child."""
    try_all(os.getppid())


def ask_for_more(work: RunSlide | RunShadow) -> None:
    """A child's hook, with a store on S3: asks its worker for objects; those that it got are the report."""
    lender = BorrowedObjects(socket.socket(fileno=os.dup(int(sys.argv[3]))))
    asked = [
        f"slides/{work.laboratory}/{work.images[0].sha256}",
        f"{work.version}/manifest.json",
        "models/gram/aliases/production",
        f"batches/{work.laboratory}/b1/batch.json",
        f"slides/{work.laboratory}/{os.environ[NOT_MINE]}",
    ]
    got = []
    for path in asked:
        with contextlib.suppress(NotFound):
            lender.get_sync(path)
            got.append(path)
    file = Path(os.environ[REPORT])
    file.with_suffix(".part").write_text(json.dumps({"asked": asked, "got": got}))
    file.with_suffix(".part").rename(file)


def spin(_work: RunSlide | RunShadow) -> None:
    """A child's hook: uses CPU time without end, and never lets Python look at a signal."""
    b"".join(bytes(1) for _ in ()) or pow(7, 10**9, None)


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _outcome(attempt: Callable[[], Any]) -> str:
    try:
        attempt()
    except (OSError, ValueError) as error:
        return type(error).__name__
    return ""
