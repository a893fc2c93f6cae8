"""References that should make a worker open something else: denied by name, nothing opened, no connection made."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gramserve.store.records import ImageRecord, SlideState
from tests.artifacts import coloured_file
from tests.inference.bench import ROOT, Bench

REFERENCES = {
    "http": "http://127.0.0.1:{port}/field.png",
    "http that redirects to a file": "http://127.0.0.1:{port}/redirect?to=file:///etc/passwd",
    "https": "https://127.0.0.1:{port}/field.png",
    "link-local": "http://169.254.169.254/latest/meta-data/iam",
    "link-local as a number": "http://2852039166/latest/meta-data",
    "link-local in IPv6": "http://[fe80::1]/field.png",
    "another scheme": "ftp://127.0.0.1:{port}/field.png",
    "gopher": "gopher://127.0.0.1:{port}/_GET",
    "a bucket": "s3://bucket/field.png",
    "data": "data:image/png;base64,iVBORw0KGgo=",
    "a file of another host": "file://127.0.0.1:{port}/field.png",
    "a share": "\\\\127.0.0.1\\share\\field.png",
    "a share as a path": "//127.0.0.1/share/field.png",
    "passwords": "/etc/passwd",
    "traversal": "{root}/../outside.png",
    "traversal, escaped": "file://{root}/%2e%2e/outside.png",
    "traversal, escaped twice": "file://{root}/%252e%252e/outside.png",
    "a name that ends early": "{root}/field.png%00.jpg",
    "a link that leads out": "{root}/out.png",
    "a link through a folder": "{root}/folder/outside.png",
    "a link to itself": "{root}/circle.png",
    "the environment": "/proc/self/environ",
    "the environment by a link": "{root}/environ.png",
    "memory by a link": "{root}/memory.png",
    "a device by a link": "{root}/zero.png",
    "a device": "/dev/zero",
    "a FIFO that nobody writes": "{root}/fifo.png",
    "a socket": "{root}/socket.png",
    "a folder": "{root}/",
    "an opened file of the worker": "/proc/self/fd/0",
    "a URI in a URI": "file:///http://127.0.0.1:{port}/field.png",
    "a query": "file://{root}/field.png?http://127.0.0.1:{port}",
    "text in two directions": "{root}/\u202egnp.dleif",
    "a line end": "{root}/field.png\r\nHost: 127.0.0.1",
}
MISSING = {"traversal, escaped twice", "a name that ends early", "text in two directions", "a line end"}
"""Plain names of files that are not there; all others are denied."""


class Listener:
    """Counts who connects."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                self._socket.accept()[0].close()
            except OSError:
                return
            self.connections += 1

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    made = Listener()
    yield made
    made.close()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    (tmp_path / "outside.png").write_bytes(coloured_file("GNR"))
    (folder / "field.png").write_bytes(coloured_file("GNR"))
    links = {
        "out.png": tmp_path / "outside.png", "folder": tmp_path, "circle.png": folder / "circle.png",
        "environ.png": "/proc/self/environ", "memory.png": "/proc/self/mem", "zero.png": "/dev/zero",
    }  # fmt: skip
    for name, target in links.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "fifo.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "socket.png"))
    return folder


async def test_every_such_reference_is_denied_and_the_honest_one_is_read(
    bench: Bench, root: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    version = await bench.publish()
    written = [uri.format(port=listener.port, root=root) for uri in REFERENCES.values()]
    await bench.submit([ImageRecord(uri=uri) for uri in [*written, f"{root}/field.png"]], version)
    async with bench.worker(allowed_roots=(str(root),), slide_timeout_s=20.0, max_attempts=1) as worker:
        outcomes = await bench.ended()
        assert worker.metrics.registry.get_sample_value("gramserve_child_restarts_total") == 0
    assert outcomes.pop(len(written)).state is SlideState.SUCCEEDED
    reasons = {name: outcomes[index].error.reason for index, name in enumerate(REFERENCES)}  # type: ignore[union-attr]
    assert reasons == {name: "REFERENCE_NOT_FOUND" if name in MISSING else "REFERENCE_DENIED" for name in REFERENCES}
    said = " ".join(outcome.error.message for outcome in outcomes.values() if outcome.error)
    assert not [part for part in ("passwd", "169.254", str(root), "field", "environ") if part in said]
    assert listener.connections == 0
