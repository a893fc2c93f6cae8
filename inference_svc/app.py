"""The worker, wired together: what exists, who knows whom, and in which order all of it starts and stops."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from gramserve import log, sandbox
from gramserve.access.opening import open_access
from gramserve.errors import GramserveError, Unavailable
from gramserve.metrics import Metrics, installed_version
from gramserve.queue import Card, Queue, Roster, connect
from gramserve.rpc.limits import call_limits
from gramserve.rpc.server import RpcServer
from gramserve.store.audit import AuditLog
from gramserve.store.audit_refusals import Refusals
from gramserve.store.batches import BatchStore
from gramserve.store.format import check_format
from gramserve.store.objects import open_store
from gramserve.store.paths import is_remote
from gramserve.store.registry import Registry
from gramserve.store.shadows import Shadows
from gramserve.store.signing import follow_trusted, keep_looking
from gramserve.tls.service import Tls
from gramserve.tracing import open_tracer
from inference_svc.admission import Admission
from inference_svc.announcer import Announcer
from inference_svc.background import keep_running
from inference_svc.children import Children
from inference_svc.completer import Completer
from inference_svc.consumer import Consumer
from inference_svc.contact import Contact
from inference_svc.cpus import usable_cpus
from inference_svc.health import Health
from inference_svc.memory import child_memory
from inference_svc.models import ModelWatcher
from inference_svc.oip_models import OipModels
from inference_svc.oip_servicer import SERVICE, OpenInferenceServicer
from inference_svc.oip_statistics import Statistics
from inference_svc.process import ChildProcess, child_environment
from inference_svc.protocol import ChildSettings
from inference_svc.recorder import Recorder
from inference_svc.renewer import Renewer
from inference_svc.runner import Runner
from inference_svc.series import begin
from inference_svc.served import Served
from inference_svc.settings import WorkerSettings
from inference_svc.shadow import Shadow
from inference_svc.slide import Held
from inference_svc.storage import Storage
from inference_svc.usage import Usage

LANE = "slides"
SAFETY_PAUSE_S = 1.0


class App:
    """One worker. `start`, then `wait` until it is asked to drain, then `stop`.

    Start it from the main thread: children die with the thread that started them. `clock` is monotonic seconds, `wall`
    Unix seconds, `jitter` gives 0 to 1.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        metrics: Metrics | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        new_id: Callable[[], str] = lambda: secrets.token_hex(3),
    ) -> None:
        self._settings = settings
        self.metrics = metrics or Metrics()
        begin(self.metrics)
        access = open_access(settings, settings.listen, self.metrics)
        self.worker_id = settings.worker_id or f"{socket.gethostname()[:40]}-{os.getpid()}-{new_id()}"
        self.port = 0
        self.metrics_port = 0
        self._log = log.get()
        self._ended = asyncio.Event()
        self._error: GramserveError | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._consuming: asyncio.Task[None] | None = None

        self._tls = Tls.of(settings)
        self._tracer = open_tracer(settings, "gramserve-worker", self._tls)
        # Two clients: nothing slow on the one may hold up a renewal on the other.
        timeout_s = min(2.0, max(0.5, settings.renew_s))
        self._redis, self._renewing_redis = (
            connect(settings.redis_url, tls=self._tls),
            connect(settings.redis_url, timeout_s=timeout_s, tls=self._tls),
        )
        self._queue = Queue(self._redis, LANE, lease_s=settings.lease_s)
        self._renewing_queue = Queue(self._renewing_redis, LANE, lease_s=settings.lease_s)

        self._objects = open_store(settings.store_url)
        self.contact = Contact(metrics=self.metrics, clock=clock, jitter=jitter)
        self.storage = Storage(self._objects.probe, self._wake, clock=clock)
        self.held = Held(self._wake)
        children = settings.children or usable_cpus()
        child_settings = ChildSettings(
            store_url=settings.store_url,
            allowed_roots=settings.allowed_roots,
            max_image_bytes=settings.max_image_bytes,
            max_image_pixels=settings.max_image_pixels,
            min_image_px=settings.min_image_px,
            memory_bytes=child_memory(settings.child_memory_bytes, children),
            models=settings.models_per_child,
            models_bytes=settings.models_memory_bytes,
            max_slide_bytes=settings.max_slide_bytes,
            shard_tiles=settings.shard_tiles,
            engine=settings.engine,
            cpu_s=settings.slide_cpu_s,
            trusted_keys_file=settings.trusted_keys_file,
        )
        trusted = self._trusted = follow_trusted(settings.trusted_keys_file, self.metrics)
        environment = child_environment(os.environ, settings.max_image_pixels)
        served = Served(self.metrics)
        self.children = Children(
            children,
            spawn=lambda: ChildProcess.spawn(
                child_settings if trusted is None else replace(child_settings, trusted_keys=trusted().pem.decode()),
                environment,
                self._objects if is_remote(settings.store_url) else None,
            ),
            limit_s=settings.slide_timeout_s,
            metrics=self.metrics,
            clock=clock,
            jitter=jitter,
            changed=self._wake,
            served=served,
        )
        self._show_usage(clock)
        registry = Registry(self._objects)
        self._shadow = Shadow(
            children=self.children,
            registry=registry,
            store=Shadows(self._objects),
            metrics=self.metrics,
            writer=f"t{wall() * 1e6:.0f}-{self.worker_id}",
            clock=clock,
        )
        self._completer = Completer(self._queue, self.worker_id, contact=self.contact, clock=clock)
        batches = BatchStore(self._objects)
        self._recorder = Recorder(batches, self.storage, held=lambda: len(self.held), clock=clock, jitter=jitter)
        self._runner = Runner(
            worker=self.worker_id,
            queue=self._queue,
            store=batches,
            children=self.children,
            recorder=self._recorder,
            completer=self._completer,
            held=self.held,
            contact=self.contact,
            storage=self.storage,
            metrics=self.metrics,
            served=served,
            handed_over=self._shadow.offer,
            max_attempts=settings.max_attempts,
            retry_delay_s=settings.retry_delay_s,
            reuse_results=settings.reuse_results,
            clock=clock,
            wall=wall,
            jitter=jitter,
            tracer=self._tracer,
        )
        self._consumer = Consumer(
            worker=self.worker_id,
            queue=self._queue,
            children=self.children,
            held=self.held,
            contact=self.contact,
            storage=self.storage,
            metrics=self.metrics,
            run_slide=self._runner.run,
            poll_s=settings.poll_s,
            clock=clock,
            dry=self._shadow.quiet,
            unfit=self._end_with,
        )
        self._renewer = Renewer(
            worker=self.worker_id,
            queue=self._renewing_queue,
            held=self.held,
            children=self.children,
            contact=self.contact,
            metrics=self.metrics,
            period_s=settings.renew_s,
            drain=self._ended.set,
            clock=clock,
        )
        self._watcher = ModelWatcher(
            registry,
            self.children,
            models=partial(self._objects.folders, "models"),
            most=settings.models_per_child,
            poll_s=settings.model_poll_s,
            follow=self._shadow.follow,
            announce=self._announce_model,
            metrics=self.metrics,
            clock=clock,
        )
        self._admission = Admission(
            self.children,
            most=settings.infer_requests,
            most_bytes=settings.infer_bytes,
            metrics=self.metrics,
            clock=clock,
        )
        servicer = OpenInferenceServicer(
            OipModels(registry, lambda: self.children.able, period_s=settings.model_poll_s, clock=clock),
            self._admission,
            self.children,
            Statistics(wall),
        )
        self._refusals = Refusals(AuditLog(self._objects))
        self._rpc = RpcServer(
            settings.listen,
            register=[servicer.register],
            names=[SERVICE.full_name],
            metrics=self.metrics,
            tls=self._tls,
            access=access,
            limits=call_limits(settings),
            refused=self._refusals.note,
            tracer=self._tracer,
        )
        self._health = Health(self._can_consume, self._announce)
        self._announcer = Announcer(Roster(self._redis, LANE), self.worker_id, lambda: self._card(clock()))

    async def start(self) -> int:
        """Start everything and return the port of the health service; slides are leased as soon as children are ready.

        Raises Unsafe when the store or Redis must not be trusted (I15), or the port is taken. A Redis that cannot be
        reached is waited for.
        """
        await self._objects.probe()
        await check_format(self._objects)
        safe = await self._try_safety()
        self.port = await self._rpc.start()
        if self._settings.metrics_port >= 0:
            self.metrics_port = self.metrics.serve(
                self._settings.metrics_host, self._settings.metrics_port, tls=self._tls
            )
        sandbox.report(self.metrics)
        self.children.start()
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "renew": self._renewer.run,
            "models": self._watcher.run,
            "keys": partial(keep_looking, self._trusted),
            "shadow": self._shadow.run,
            "storage": self.storage.watch,
            "health": self._health.watch,
            "refusals": self._refusals.keep_on,
            "announce": self._announcer.run,
        }
        self._tasks = [asyncio.create_task(keep_running(name, loop), name=name) for name, loop in loops.items()]
        self._consuming = asyncio.create_task(self._consume(safe=safe), name="consume")
        self._log.info("worker started", worker=self.worker_id, children=self.children.count, port=self.port)
        return self.port

    async def ready(self) -> None:
        """Until the worker served for the first time."""
        await self._health.served.wait()

    @property
    def serving(self) -> bool:
        """What the health service says now."""
        return self._health.serving

    async def wait(self) -> None:
        """Until this worker was asked to drain. Raises Unsafe when Redis, reached at last, turned out to be unsafe."""
        await self._ended.wait()
        if self._error is not None:
            raise self._error

    async def stop(self, grace_s: float | None = None) -> None:
        """Stop leasing, say NOT_SERVING, finish what runs within the grace, give back the rest, close (I14)."""
        self._consumer.stop()
        self._admission.close()
        await self._health.stop()
        if self._consuming is not None:
            await self._consuming
            self.children.close()
            for slide in self.held:
                if slide.ticket is not None:
                    self.children.withdraw(slide.ticket)
            grace_s = self._settings.stop_grace_s if grace_s is None else grace_s
            await asyncio.gather(self._consumer.finish(grace_s), self._admission.finish(grace_s))
            await self._give_back_rest()
        await self.children.stop()
        await self._consumer.abandon()
        await self._recorder.stop()
        await self._completer.stop()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._announcer.leave()
        await self._shadow.write()
        await self._rpc.stop(0.5)
        await self._refusals.finish()
        for queue in (self._queue, self._renewing_queue):
            await queue.aclose()
        for redis in (self._redis, self._renewing_redis):
            await redis.aclose()
        await asyncio.to_thread(self._tracer.close)
        self._log.info("worker stopped", worker=self.worker_id)

    def _show_usage(self, clock: Callable[[], float]) -> None:
        usage = Usage(lambda: self.children.pids)
        self.metrics.follow("children_memory_bytes", usage.memory_bytes)
        self.metrics.follow("children_cpu_seconds", usage.cpu_s)
        self.metrics.follow("slide_running_seconds", lambda: self.held.longest_s(clock()))

    async def _give_back_rest(self) -> None:
        """Release what did not finish in time, and what a lost answer of a lease call may have given us."""
        rest = [slide for slide in self.held if not slide.gone()]
        for slide in rest:
            slide.lose()  # whatever its child still says is not written
        try:
            await self._queue.release([slide.lease for slide in rest], self.worker_id)
        except GramserveError as error:
            self._log.warning("slides could not be given back; their leases end by themselves", reason=error.reason)

    async def _consume(self, *, safe: bool) -> None:
        while not safe:
            await asyncio.sleep(SAFETY_PAUSE_S)
            if self._health.stopped:
                return
            try:
                safe = await self._try_safety()
            except GramserveError as error:
                self._end_with(error)
                return
        await keep_running("consume", self._consumer.run)

    def _end_with(self, error: GramserveError) -> None:
        """`wait` raises this."""
        self._error = error
        self._ended.set()

    async def _try_safety(self) -> bool:
        """True when Redis is safe, False when it cannot be reached; raises Unsafe."""
        try:
            await self._queue.check_safe(allow_volatile=self._settings.allow_volatile_redis)
        except Unavailable:
            self.contact.failed()
            return False
        self.contact.answered()
        return True

    def _card(self, now_s: float) -> Card:
        return Card(
            release=installed_version(),
            ready=self.children.ready,
            children=self.children.count,
            leased=len(self.held),
            longest_s=self.held.longest_s(now_s),
            models=tuple(self.children.models),
            serving=self.serving,
        )

    def _can_consume(self) -> bool:
        contact = self.contact.recent(max(3.0, 2 * self._settings.renew_s))
        return contact and self.storage.usable and self.children.ready > 0 and not self._ended.is_set()

    async def _announce(self, serving: bool) -> None:
        await self._rpc.set_serving(serving)
        first = serving and not self._health.served.is_set()
        self._log.info("ready" if first else "health changed", serving=serving, port=self.port)

    async def _announce_model(self, model: str, serving: bool) -> None:
        await self._rpc.set_one_serving(f"models/{model}", serving)

    def _wake(self) -> None:
        self._consumer.wake()
        self._shadow.wake()
        self._admission.deal()
