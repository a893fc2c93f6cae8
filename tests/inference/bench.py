"""A laboratory bench around workers under test: real Redis, real store, real children, tiny artifacts."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from gramserve.queue import Lease, Queue, Snapshot, connect
from gramserve.store.batches import BatchStore
from gramserve.store.objects import open_store
from gramserve.store.records import BatchRecord, ImageRecord, OutcomeRecord, Priority, SlideRecord
from gramserve.store.registry import Registry, Resolved
from inference_svc.app import App
from inference_svc.settings import WorkerSettings
from tests.artifacts import coloured_file, publish_tiny
from tests.waiting import HANGS_S, until

LABORATORY = "lab-1"
DUE_S = 1_900_000_000.0
ROOT = Path(__file__).parents[2]


class Bench:
    """Everything of gramserve that a worker meets, with the test in the place of the gateway."""

    def __init__(self, folder: Path, redis_url: str, *, lease_s: float = 30.0, store_url: str = "") -> None:
        self.folder = folder
        self.store_url = store_url or str(folder / "store")
        self.redis_url = redis_url
        self.lease_s = lease_s
        self.objects = open_store(self.store_url)
        self.batches = BatchStore(self.objects)
        self.registry = Registry(self.objects)
        self.redis = connect(redis_url)
        self.queue = Queue(self.redis, "slides", lease_s=lease_s)
        self._made = 0
        self._writers: dict[str, int] = {}

    async def close(self) -> None:
        for writer in self._writers.values():
            os.close(writer)
        await self.queue.aclose()
        await self.redis.aclose()

    # What slides are made of.

    async def publish(self, model: str = "gram", *, promote: bool = True, **options: Any) -> Resolved:
        version, digest = await publish_tiny(self.registry, model, promote=promote, **options)
        return Resolved(model, version, digest)

    async def image(self, data: bytes) -> ImageRecord:
        sha256 = hashlib.sha256(data).hexdigest()
        await self.objects.put(f"slides/{LABORATORY}/{sha256}", data)
        return ImageRecord(sha256=sha256)

    async def field(self, label: str = "GNR", *, extension: str = "png") -> ImageRecord:
        """A field of one colour like no other on this bench."""
        self._made += 1
        return await self.image(coloured_file(label, 64 + self._made, 64, extension))

    async def submit(
        self,
        slides: Sequence[ImageRecord | Sequence[ImageRecord]],
        version: Resolved,
        *,
        batch: str = "b1",
        specimen_types: Sequence[str] = (),
        stat: bool = False,
        laboratory: str = LABORATORY,
        reuse_results: bool = True,
    ) -> str:
        """Accepts and queues a batch as the gateway does; returns its key in the queue."""
        kinds = [*specimen_types, *[""] * (len(slides) - len(specimen_types))]
        records = [
            SlideRecord(index, f"slide-{index}", (images,) if isinstance(images, ImageRecord) else tuple(images), kind)
            for index, (images, kind) in enumerate(zip(slides, kinds, strict=True))
        ]
        await self.batches.write_manifest(laboratory, batch, records)
        await self.batches.create_batch(
            BatchRecord(
                laboratory=laboratory,
                batch=batch,
                request_id="r",
                fingerprint="f",
                model=version.name,
                model_version=version.name,
                model_digest=version.digest,
                slide_count=len(records),
                priority=Priority.STAT if stat else Priority.ROUTINE,
                deliver_by=None,
                max_failed_ratio=1.0,
                annotations={},
                create_time=0.0,
                reuse_results=reuse_results,
            )
        )
        await self.enqueue(batch, range(len(records)), version, fresh=True, stat=stat, laboratory=laboratory)
        return f"{laboratory}/{batch}"

    async def enqueue(
        self,
        batch: str,
        indices: Sequence[int],
        version: Resolved,
        *,
        fresh: bool = False,
        stat: bool = False,
        laboratory: str = LABORATORY,
    ) -> None:
        total = max(indices) + 1
        await self.queue.open(
            f"{laboratory}/{batch}", round=0, total=total, priority_stat=stat, due_s=DUE_S,
            version=version.name, digest=version.digest, fresh=fresh,
        )  # fmt: skip
        await self.queue.submit(f"{laboratory}/{batch}", indices)

    # What became of them.

    async def outcomes(self, batch: str = "b1") -> dict[int, OutcomeRecord]:
        return {outcome.index: outcome async for outcome in self.batches.outcomes(LABORATORY, batch)}

    async def snapshot(self, batch: str = "b1") -> Snapshot:
        snapshot = await self.queue.snapshot(f"{LABORATORY}/{batch}")
        assert snapshot is not None
        return snapshot

    async def ended(
        self, batch: str = "b1", *, timeout_s: float = HANGS_S, sweep: bool = False
    ) -> dict[int, OutcomeRecord]:
        """The outcomes when every slide has ended in the queue; the counts agree. `sweep` does what a gateway does."""

        async def drained() -> bool:
            if sweep:
                await self.queue.reclaim("sweeper")
            return (await self.snapshot(batch)).live == 0

        await until(drained, timeout_s, f"{batch} drained")
        outcomes, snapshot = await self.outcomes(batch), await self.snapshot(batch)
        states = [outcome.state.value for outcome in outcomes.values()]
        assert states.count("SUCCEEDED") == snapshot.succeeded
        assert states.count("FAILED") == snapshot.failed
        return outcomes

    async def terminal_events(self, batch: str = "b1") -> dict[int, list[str]]:
        events = await self.queue.events(f"{LABORATORY}/{batch}", 0, 10_000)
        found: dict[int, list[str]] = {}
        for event in events:
            if event.index >= 0 and event.state not in {"QUEUED", "RUNNING"}:
                found.setdefault(event.index, []).append(event.state)
        return found

    async def sweep_until(self, slides: int = 1) -> list[Lease]:
        """Sweeps as a gateway does until `slides` overdue leases were taken back; returns the condemned ones."""
        condemned: list[Lease] = []
        taken = 0

        async def enough() -> bool:
            nonlocal taken
            found = await self.queue.reclaim("sweeper")
            condemned.extend(found.condemned)
            taken += found.requeued + len(found.condemned)
            return taken >= slides

        await until(enough)
        return condemned

    # Telling children what to do: see tests/inference/hooks.py.

    def crash(self, image: ImageRecord, *, once: bool = False) -> None:
        (self.folder / f"crash-{'once-' if once else ''}{image.sha256}").touch()

    def hold(self, image: ImageRecord, *, shadow: bool = False) -> None:
        os.mkfifo(self._gate(image, shadow))

    async def held(self, image: ImageRecord, *, shadow: bool = False) -> int:
        """Waits until a child runs this slide and waits for `let_go`; returns its process id."""
        await until(lambda: self._open(self._gate(image, shadow)), 30, "a child waits on the slide")
        return self.runs(image, shadow=shadow)[-1]

    def let_go(self, image: ImageRecord, *, shadow: bool = False) -> None:
        """The child that waits goes on, and none will wait on this slide again."""
        gate = self._gate(image, shadow)
        gate.unlink()
        os.close(self._writers.pop(gate.name))

    def _gate(self, image: ImageRecord, shadow: bool) -> Path:
        return self.folder / f"{'shadow-' if shadow else ''}hold-{image.sha256}"

    def _open(self, gate: Path) -> bool:
        # Opening for writing works once somebody reads; the reader waits until we close.
        try:
            writer = os.open(gate, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return False
        self._writers[gate.name] = writer
        return True

    def runs(self, image: ImageRecord, *, shadow: bool = False) -> list[int]:
        """The process ids of the children that began this slide, in order."""
        path = self.folder / f"{'shadow-' if shadow else ''}runs-{image.sha256}"
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    # Workers.

    def settings(self, **changes: Any) -> WorkerSettings:
        values: dict[str, Any] = {
            "store_url": self.store_url,
            "redis_url": self.redis_url,
            "lease_s": self.lease_s,
            "listen": "127.0.0.1:0",
            "metrics_port": -1,
            "children": 2,
            "retry_delay_s": 0.05,
            "poll_s": 0.1,
            "model_poll_s": 0.1,
            "stop_grace_s": HANGS_S,
        }
        return WorkerSettings(**values | changes)

    @asynccontextmanager
    async def worker(self, **changes: Any) -> AsyncIterator[App]:
        """A worker in this process, serving."""
        app = App(self.settings(**changes))
        await app.start()
        try:
            async with asyncio.timeout(HANGS_S):
                await app.ready()
            yield app
        finally:
            await app.stop(0.0)

    @asynccontextmanager
    async def process(self, **changes: Any) -> AsyncIterator[WorkerProcess]:
        """A worker in a process of its own, serving."""
        settings = self.settings(**changes)
        shared = {"store_url", "redis_url", "lease_s"}
        environment = {
            f"GRAMSERVE_{'' if name in shared else 'WORKER_'}{name.upper()}": str(getattr(settings, name))
            for name in settings.model_fields_set
            if name != "allowed_roots"
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "inference_svc"),
            env={**os.environ, **environment},
            cwd=ROOT,
            stderr=asyncio.subprocess.PIPE,
        )
        worker = WorkerProcess(process)
        try:
            await worker.logged("ready")
            yield worker
        finally:
            await worker.kill()


class WorkerProcess:
    """A worker as an operator sees it: a process that writes a log and listens to signals."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.pid = process.pid
        self.log: list[dict[str, Any]] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log.append(json.loads(line))

    async def logged(self, event: str) -> dict[str, Any]:
        return await until(lambda: next((line for line in self.log if line["event"] == event), None))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def kill(self) -> None:
        """As kill -9 does it; the log is read to its end."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reading
