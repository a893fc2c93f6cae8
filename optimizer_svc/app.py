"""All wiring of the optimizer service: what it is made of, in which order it starts and stops."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from redis.asyncio import Redis

from gramserve import log, sandbox
from gramserve.access.opening import open_access
from gramserve.errors import Reason, Unsafe
from gramserve.metrics import Metrics
from gramserve.queue import Queue, connect
from gramserve.rpc.limits import call_limits
from gramserve.rpc.server import RpcServer
from gramserve.store.audit import AuditLog
from gramserve.store.audit_refusals import Refusals
from gramserve.store.format import check_format
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from gramserve.store.signing import follow_trusted, load_signer
from gramserve.store.uploads import Uploads
from gramserve.tls.service import Tls
from gramserve.tracing import OFF, open_tracer
from gramserve.v1 import optimizer_service_pb2_grpc
from optimizer_svc.consumer import Consumer
from optimizer_svc.ending import Ending
from optimizer_svc.jobs import Jobs, JobSettings
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.process import JOB_COMMAND
from optimizer_svc.publishing import Publisher
from optimizer_svc.schedule import Schedule
from optimizer_svc.series import begin
from optimizer_svc.servicer import SERVICE, OptimizerServicer
from optimizer_svc.settings import OptimizerSettings
from optimizer_svc.sources import Sources
from optimizer_svc.view import Views

LANE = "optimizations"


class App:
    """The optimizer service. `job_command` runs a job, given its workspace; see `optimizer_svc.job_process`."""

    def __init__(
        self, settings: OptimizerSettings, *, job_command: Sequence[str] = JOB_COMMAND, worker: str = ""
    ) -> None:
        self._settings = settings
        self._job_command = tuple(job_command)
        self._worker = worker or f"optimizer-{secrets.token_hex(4)}"
        self._log = log.get()
        self.metrics = Metrics()
        self.port = 0
        self._loops: list[asyncio.Task[None]] = []
        self._refusals: Refusals | None = None
        self._recording: asyncio.Task[None] | None = None
        self._redis: Redis | None = None
        self._queue: Queue | None = None
        self._tracer = OFF
        self._server: RpcServer | None = None
        self._consumer: Consumer | None = None

    async def start(self) -> int:
        """Serve; returns the port. Raises Unsafe, Unavailable or InvalidInput when it cannot, leaving nothing open."""
        try:
            return await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> int:
        settings = self._settings
        access = open_access(settings, settings.listen, self.metrics)
        begin(self.metrics)
        objects = open_store(settings.store_url)
        await objects.probe()
        await check_format(objects)
        work_folder = await asyncio.to_thread(_made, settings.work_folder)
        tls = Tls.of(settings)
        self._tracer = open_tracer(settings, "gramserve-optimizer", tls)
        self._redis = connect(settings.redis_url, tls=tls)
        queue = self._queue = Queue(self._redis, LANE, lease_s=settings.lease_s)
        await queue.check_safe(allow_volatile=settings.allow_volatile_redis)

        signer = load_signer(settings.signing_key) if settings.signing_key else None
        trusted = follow_trusted(settings.trusted_keys_file, self.metrics)
        registry = Registry(objects, signer=signer, trusted=trusted)
        audit = AuditLog(objects, on_head=lambda number, _: self.metrics.set("audit_records", number))
        refusals, optimizations = Refusals(audit), Optimizations(objects)
        self._refusals = refusals
        sources = Sources(objects, allowed_roots=[Path(root) for root in settings.allowed_roots])
        ending = Ending(queue, self._worker, optimizations, self.metrics, work_folder=work_folder, clock=time.time)
        schedule = Schedule(queue, optimizations, ending, self.metrics)
        servicer = OptimizerServicer(
            optimizations,
            sources,
            schedule,
            ending,
            Views(optimizations, registry),
            Uploads(objects, max_bytes=settings.max_upload_bytes),
            self.metrics,
            max_budget_minutes=settings.max_budget_minutes,
            poll_s=settings.poll_s,
            four_eyes=access is not None and settings.four_eyes,
            audit=audit,
        )
        server = self._server = RpcServer(
            settings.listen,
            register=[lambda s: optimizer_service_pb2_grpc.add_OptimizerServiceServicer_to_server(servicer, s)],
            names=[SERVICE],
            metrics=self.metrics,
            tls=tls,
            access=access,
            limits=call_limits(settings),
            refused=refusals.note,
            tracer=self._tracer,
        )
        jobs = Jobs(
            queue,
            self._worker,
            optimizations=optimizations,
            sources=sources,
            publisher=Publisher(registry, optimizations, audit),
            ending=ending,
            metrics=self.metrics,
            settings=JobSettings(
                work_folder=work_folder,
                cores=settings.cores,
                nice=settings.nice,
                stop_grace_s=settings.stop_grace_s,
                retry_s=settings.retry_s,
                command=self._job_command,
            ),
        )
        consumer = self._consumer = Consumer(
            queue,
            self._worker,
            jobs,
            ending,
            schedule,
            self.metrics,
            on_contact=server.set_serving,
            poll_s=settings.poll_s,
            reconcile_s=settings.reconcile_s,
        )
        sandbox.report(self.metrics)
        self.port = await server.start()
        if settings.metrics_port >= 0:
            self.metrics.serve(settings.metrics_host, settings.metrics_port, tls=tls)
        self._recording = asyncio.create_task(refusals.keep_on())
        self._loops = [asyncio.create_task(consumer.consume()), asyncio.create_task(consumer.tidy())]
        await server.set_serving(True)
        self.metrics.set("queue_contact", 1)
        self._log.info("ready", port=self.port)
        return self.port

    async def stop(self) -> None:
        """Lease nothing more, NOT_SERVING, give the running job back, finish running calls, close (I14)."""
        if self._consumer is not None:
            self._consumer.stop()
        if self._server is not None:
            await self._server.set_serving(False)
        await self._end_loops()
        if self._server is not None:
            await self._server.stop(self._settings.stop_grace_s)
        if self._recording is not None:
            self._recording.cancel()
            await asyncio.gather(self._recording, return_exceptions=True)
        if self._refusals is not None:
            await self._refusals.finish()
        if self._queue is not None:
            await self._queue.aclose()
        if self._redis is not None:
            await self._redis.aclose()
        await asyncio.to_thread(self._tracer.close)
        self.metrics.close()

    async def _end_loops(self) -> None:
        """They end by themselves; one that hangs, on a Redis that does not answer, is cancelled."""
        if not self._loops:
            return
        _, pending = await asyncio.wait(self._loops, timeout=2 * self._settings.stop_grace_s + 5.0)
        for loop in pending:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
        self._loops = []


def _made(folder: str) -> Path:
    """The work folder, absolute and writable for us alone; raises Unsafe."""
    path = Path(folder).absolute()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / ".probe"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError:
        raise Unsafe(Reason.UNSAFE_STORE, "the work folder of the optimizer cannot be written") from None
    return path
