"""A hospital's site under test: a real redis-server, one store, and services as processes that can be harmed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from gramserve.client import GramserveClient
from gramserve.client.patience import Patience
from gramserve.errors import GramserveError
from gramserve.local import tether
from gramserve.queue import Queue, connect
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.store.batches import BatchStore
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource
from inference_svc.child import HOOK
from tests.artifacts import publish_tiny
from tests.faults import points
from tests.faults.engine import let_go, picture, runs
from tests.sources import ROOT
from tests.waiting import HANGS_S, until

LABORATORY = "north"
LEASE_S = 2.0
"""Short enough to wait for, and so long that a process of a busy machine renews it in time."""
STATE = SlideBatch.State


class Service:
    """A gateway, worker or optimizer as an operator sees it: a process with a log that listens to signals."""

    def __init__(self, role: str, process: asyncio.subprocess.Process) -> None:
        self.role = role
        self.process = process
        self.pid = process.pid
        self.port = 0
        self.log: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": line.decode(errors="replace").rstrip()})

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.returncode is None

    async def logged(self, event: str, *, timeout_s: float = HANGS_S) -> dict[str, Any]:
        """The first line of the log with this event, waiting for it while the process lives."""

        def look() -> dict[str, Any] | None:
            found = next((line for line in self.log if line["event"] == event), None)
            assert found or self.alive, f"the {self.role} ended: {self.log[-5:]}"
            return found

        found = await until(look, timeout_s, f"{self.role} logged {event}")
        assert found is not None
        return found

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        self.process.send_signal(number)

    async def ended(self, *, timeout_s: float = HANGS_S) -> int:
        """The exit status once it has ended; its log is complete then."""
        status = await asyncio.wait_for(self.process.wait(), timeout_s)
        await self._reading
        return status

    async def kill(self) -> None:
        """kill -9, also of one that was stopped."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.ended()

    async def term(self, *, timeout_s: float = HANGS_S) -> int:
        """SIGTERM; the exit status."""
        with suppress(ProcessLookupError):
            self.send(signal.SIGTERM)
        return await self.ended(timeout_s=timeout_s)

    def children(self) -> list[int]:
        """Process ids of its children."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children()]
        except psutil.NoSuchProcess:
            return []

    def rss_bytes(self) -> int:
        """Memory of the process and its children."""
        process = psutil.Process(self.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))


class Site:
    """Where services run. `redis` may be killed and started again; `points` decides what happens at named points."""

    def __init__(self, folder: Path, redis: EmbeddedRedis, *, lease_s: float = LEASE_S) -> None:
        self.folder = folder
        self.redis = redis
        self.redis_url = redis.url
        self.lease_s = lease_s
        self.store_url = str(folder / "store")
        self.points = points.Points(folder / "points")
        self.objects = open_store(self.store_url)
        self.batches = BatchStore(self.objects)
        self.registry = Registry(self.objects)
        self.services: list[Service] = []
        self.accepted: dict[str, int] = {}
        self.port = free_port()
        self.redis_client = connect(redis.url)
        self.queue = Queue(self.redis_client, "slides", lease_s=lease_s)
        self._made = 0
        self._clients: list[GramserveClient] = []
        self._usual: GramserveClient | None = None

    async def start(self) -> None:
        """A tiny model is in production."""
        await publish_tiny(self.registry)

    async def close(self) -> None:
        """Everything that was started here ends."""
        for client in self._clients:
            await client.close()
        for service in self.services:
            await service.kill()
        await self.queue.aclose()
        await self.redis_client.aclose()

    # Services.

    async def gateway(self, **options: Any) -> Service:
        """A gateway that serves, at `port` unless `listen` says otherwise; the options of `service`."""
        return await self.service("gateway", **{"listen": f"127.0.0.1:{self.port}", **options})

    async def worker(self, **options: Any) -> Service:
        """A worker that serves, with one child unless told otherwise; the options of `service`."""
        return await self.service("worker", **options)

    async def optimizer(self, **options: Any) -> Service:
        """An optimizer with scripted jobs that serves; the options of `service`."""
        return await self.service("optimizer", **options)

    async def service(
        self,
        role: str,
        *,
        ready: bool = True,
        environment: Mapping[str, str] | None = None,
        modules: Sequence[str] = (),
        launcher: Sequence[str] = (),
        **settings: Any,
    ) -> Service:
        """A process of `tests.faults.run`.

        `settings` are those of the service, by the names of its fields; `modules` are imported there first; `launcher`
        are words put before the command. `ready` waits until it serves.
        """
        process = await asyncio.create_subprocess_exec(
            *(*tether.launcher(), *launcher, sys.executable, "-m", "tests.faults.run", role, *modules),
            env=self.environment(role, **settings) | dict(environment or {}),
            cwd=ROOT,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        service = Service(role, process)
        self.services.append(service)
        if ready:
            service.port = (await service.logged("ready"))["port"]
        return service

    def environment(self, role: str, **settings: Any) -> dict[str, str]:
        """The environment of a service here."""
        own = {
            "gateway": {
                "reconcile_interval_s": 0.2,
                "finish_interval_s": 0.05,
                "stall_s": 3.0,
                "probe_interval_s": 1.0,
                "shutdown_grace_s": 2.0,
                "event_retention_slides": 100_000,
                "manifest_roots": str(self.folder / "manifests"),
            },
            "worker": {
                "children": 1,
                "retry_delay_s": 0.05,
                "poll_s": 0.1,
                "model_poll_s": 0.5,
                "stop_grace_s": 5.0,
                "child_memory_bytes": 512 << 20,
                "allowed_roots": str(self.folder / "scans"),
            },
            "optimizer": {
                "work_folder": str(self.folder / "work"),
                "poll_s": 0.05,
                "reconcile_s": 0.5,
                "stop_grace_s": 5.0,
                "retry_s": 0.05,
            },
        }
        shared = {"store_url": self.store_url, "redis_url": self.redis_url, "lease_s": self.lease_s}
        values = {**shared, "listen": "127.0.0.1:0", "metrics_port": -1, **own[role], **settings}
        names = {**dict.fromkeys(values, f"GRAMSERVE_{role.upper()}_")}
        names |= dict.fromkeys((*shared, "allow_volatile_redis", "log_level"), "GRAMSERVE_")
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("GRAMSERVE_")},
            **{f"{names[name]}{name.upper()}": str(value) for name, value in values.items()},
            "PYTHONPATH": str(ROOT),
            points.FOLDER: str(self.points.folder),
            HOOK: "tests.faults.engine:obey",
        }

    # Slides.

    def picture(self, word: str = "ok", *, times: int = 0) -> bytes:
        """A field like no other on this site; see `tests.faults.engine`."""
        self._made += 1
        return picture(word, self._made, times=times)

    def pictures(self, *words: str) -> list[bytes]:
        """One for each word."""
        return [self.picture(word) for word in words]

    def runs(self, image: bytes) -> list[int]:
        """The process ids of the children that began this picture, in order."""
        return runs(self.points.folder, image)

    def let_go(self, image: bytes) -> None:
        """Children that hold this picture go on, now and later."""
        let_go(self.points.folder, image)

    async def held(self, image: bytes, *, times: int = 1) -> int:
        """Waits until a child began this picture `times` times; the process id of the last one."""
        await until(lambda: len(self.runs(image)) >= times, what="a child began the slide")
        return self.runs(image)[-1]

    # A client.

    def client(self, port: int = 0, *, total_s: float = 60.0, call_s: float = 15.0) -> GramserveClient:
        """A client of the gateway at `port` (0: the usual one) that bears outages for `total_s` seconds."""
        patience = Patience(total_s=total_s, call_s=call_s, first_wait_s=0.05, longest_wait_s=0.5)
        made = GramserveClient(f"127.0.0.1:{port or self.port}", laboratory=LABORATORY, patience=patience)
        self._clients.append(made)
        return made

    @property
    def usual(self) -> GramserveClient:
        """The client that `create`, `get` and `ended` use."""
        if self._usual is None:
            self._usual = self.client()
        return self._usual

    async def create(self, images: Sequence[bytes], *, client: GramserveClient | None = None, **fields: Any) -> str:
        """The name of a batch of one slide per picture, once it was accepted, repeated through outages."""
        client = client or self.usual
        sources = [
            SlideSource(slide_id=f"S-{index}", images=[Image(content=image)]) for index, image in enumerate(images)
        ]
        batch = await client.create_batch(sources, **{"model": "models/gram", **fields})
        self.accepted[batch.name] = len(images)
        return batch.name

    async def get(self, name: str) -> SlideBatch:
        """The batch now."""
        return await self.usual.get_batch(name)

    async def ended(self, *names: str, timeout_s: float = HANGS_S) -> list[SlideBatch]:
        """The batches (all accepted ones, if none is named) once each has its end."""
        found: list[SlideBatch] = []
        for name in names or tuple(self.accepted):

            async def look(name: str = name) -> SlideBatch | None:
                with suppress(GramserveError):
                    batch = await self.usual.get_batch(name)
                    return batch if batch.state >= STATE.STATE_SUCCEEDED else None
                return None

            batch = await until(look, timeout_s, f"{name} has ended")
            assert batch is not None
            found.append(batch)
        return found


@asynccontextmanager
async def site(folder: Path, redis: EmbeddedRedis, *, lease_s: float = LEASE_S) -> AsyncIterator[Site]:
    """A site without services."""
    made = Site(folder, redis, lease_s=lease_s)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


def free_port() -> int:
    """A port of the loopback that nobody listens at now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def key_of(name: str) -> tuple[str, str]:
    """Laboratory and batch id of a batch's resource name."""
    _, laboratory, _, batch = name.split("/")
    return laboratory, batch
