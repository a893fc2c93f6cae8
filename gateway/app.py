"""All wiring of the gateway."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from gateway.admission import Admission
from gateway.approval import Approval
from gateway.audit import AuditKeeper
from gateway.batch_servicer import BatchServicer
from gateway.cancel import Canceller
from gateway.classify import SlideClassifier
from gateway.create import Creator
from gateway.finalize import Finalizer
from gateway.finish import Finisher
from gateway.gauges import Gauges
from gateway.health import HealthCheck
from gateway.image_servicer import ImageServicer
from gateway.listing import Listing
from gateway.loop import Loop
from gateway.manifest_file import ManifestFiles
from gateway.model_servicer import ModelServicer
from gateway.models import Models
from gateway.operations_servicer import OperationsServicer
from gateway.placement import Placement
from gateway.quotas import Quotas
from gateway.reconcile import Reconciler
from gateway.retention import Retention
from gateway.retry import Retrier
from gateway.rounds import Rounds
from gateway.series import begin
from gateway.settings import GatewaySettings
from gateway.shadow import Comparer
from gateway.stop import Stopper
from gateway.submission import Examiner
from gateway.sweep import Sweeper
from gateway.system import SystemView
from gateway.tend import Tender
from gateway.turns import Turns
from gateway.views import Views
from gateway.watch import Watcher
from gramserve import log
from gramserve.access.opening import open_access
from gramserve.images.open import ReferenceOpener
from gramserve.metrics import Metrics
from gramserve.queue import ContactWatch, Queue, Roster, connect
from gramserve.rpc.limits import call_limits
from gramserve.rpc.server import RpcServer
from gramserve.store.audit import AuditLog
from gramserve.store.audit_refusals import Refusals
from gramserve.store.batches import BatchStore
from gramserve.store.format import check_format
from gramserve.store.objects import LocalObjects, open_store
from gramserve.store.purge import Purger
from gramserve.store.registry import Registry
from gramserve.store.shadows import Shadows
from gramserve.store.signing import follow_trusted
from gramserve.store.uploads import Uploads
from gramserve.tls.service import Tls
from gramserve.tracing import open_tracer
from gramserve.v1 import image_service_pb2, model_service_pb2, operations_service_pb2, slide_batch_service_pb2
from gramserve.v1.image_service_pb2_grpc import add_ImageServiceServicer_to_server
from gramserve.v1.model_service_pb2_grpc import add_ModelServiceServicer_to_server
from gramserve.v1.operations_service_pb2_grpc import add_OperationsServiceServicer_to_server
from gramserve.v1.slide_batch_service_pb2_grpc import add_SlideBatchServiceServicer_to_server

LANE = "slides"
_HEALTH_INTERVAL_S = 1.0
_REFUSALS_INTERVAL_S = 1.0
_AUDIT_INTERVAL_S = 60.0
_SERVICES = (slide_batch_service_pb2, image_service_pb2, model_service_pb2, operations_service_pb2)
SERVICES = tuple(service.full_name for part in _SERVICES for service in part.DESCRIPTOR.services_by_name.values())


class App:
    """One gateway. `clock` gives Unix seconds; `new_id` makes ids of batches and of this process.

    `start` and `stop` belong to one running event loop. `port` is known after `start`.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: secrets.token_hex(10),
    ) -> None:
        self.port = 0
        self.metrics = Metrics()
        self._settings = settings
        self._clock = clock
        self._new_id = new_id
        self._running: _Running | None = None

    async def start(self) -> int:
        """Serve; returns the port. Raises Unsafe on unsafe ground (I15), Unavailable when Redis does not answer."""
        running = _Running(self._settings, self.metrics, self._clock, self._new_id)
        try:
            self.port = await running.start()
        except BaseException:
            await running.close()
            raise
        self._running = running
        log.get().info("ready", port=self.port)
        return self.port

    async def stop(self) -> None:
        """NOT_SERVING, streams end, running calls finish, loops stop, connections close (I14). May be repeated."""
        running, self._running = self._running, None
        if running is not None:
            await running.stop()
            await running.close()
            log.get().info("stopped")


class _Running:
    """What stands between start and stop."""

    def __init__(
        self, settings: GatewaySettings, metrics: Metrics, clock: Callable[[], float], new_id: Callable[[], str]
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        access = open_access(settings, settings.listen, metrics)
        self._objects = open_store(settings.store_url)
        self._tls = Tls.of(settings)
        self._tracer = open_tracer(settings, "gramserve-gateway", self._tls)
        self._redis = connect(settings.redis_url, tls=self._tls)
        self._queue = queue = Queue(self._redis, LANE, lease_s=settings.lease_s, max_crashes=settings.max_crashes)
        contact = ContactWatch(settings.lease_s)
        audit = AuditLog(self._objects, clock=clock, on_head=lambda number, _: metrics.set("audit_records", number))
        batches = BatchStore(self._objects)
        registry = Registry(self._objects, clock, trusted=follow_trusted(settings.trusted_keys_file, metrics))
        rounds, models = Rounds(batches), Models(self._objects, registry)
        views = Views(batches, rounds, queue, clock)
        placement, stopper = Placement(batches, rounds, queue, clock), Stopper(batches, queue, clock)
        tender = Tender(batches, rounds, queue, placement, stopper, metrics, stall_s=settings.stall_s, clock=clock)
        reconciler = Reconciler(
            batches,
            queue,
            contact,
            tender,
            scan_interval_s=settings.scan_interval_s,
            find_interval_s=settings.find_interval_s,
        )
        purger = Purger(self._objects, settings.retention, audit, clock=clock)
        turns = Turns()
        finalizer = Finalizer(
            batches,
            rounds,
            queue,
            metrics,
            turns,
            clock=clock,
            retention_s=settings.event_retention_s,
            retention_slides=settings.event_retention_slides,
            audit=audit,
            tracer=self._tracer,
        )
        self._finisher = Finisher(queue, finalizer, look_after=reconciler.look_after)
        sweeper = Sweeper(batches, rounds, queue, contact, metrics, sweeper=f"gateway-{new_id()}", clock=clock)
        opener = ReferenceOpener(
            self._objects,
            allowed_roots=[Path(root) for root in settings.manifest_roots],
            max_bytes=settings.max_manifest_bytes,
        )
        files = ManifestFiles(opener, max_slides=settings.max_manifest_slides, max_bytes=settings.max_manifest_bytes)
        quotas = Quotas(
            batches, queue, slides=settings.laboratory_queued_slides, batches_open=settings.laboratory_open_batches
        )
        admission = Admission(queue, max_queued_slides=settings.max_queued_slides)
        creator = Creator(
            batches,
            models,
            Examiner(files, max_inline_slides=settings.max_inline_slides, clock=clock),
            admission,
            placement,
            metrics,
            clock=clock,
            new_id=new_id,
            on_accepted=reconciler.look_after,
            quotas=quotas,
            audit=audit,
        )
        self._watcher = Watcher(batches, rounds, queue, views, heartbeat_s=settings.heartbeat_s)
        canceller = Canceller(views, stopper, on_change=reconciler.look_after, audit=audit)
        self._classifier = SlideClassifier(creator, canceller, batches, rounds, queue, clock=clock)
        batch_servicer = BatchServicer(
            creator,
            views,
            Listing(batches, rounds, queue, views),
            canceller,
            Retrier(
                batches,
                queue,
                views,
                admission,
                placement,
                turns,
                clock=clock,
                on_change=reconciler.look_after,
                audit=audit,
                quotas=quotas,
                metrics=metrics,
            ),
            self._watcher,
            self._classifier,
            audit,
        )
        model_servicer = ModelServicer(
            models,
            registry,
            Comparer(registry, Shadows(self._objects)),
            Approval(registry, four_eyes=access is not None and settings.four_eyes),
            audit,
        )
        image_servicer = ImageServicer(Uploads(self._objects, max_bytes=settings.max_upload_bytes), metrics, audit)
        operations = OperationsServicer(SystemView(batches, views, queue, Roster(self._redis, LANE), clock))
        self._refusals = Refusals(audit)
        self._server = RpcServer(
            settings.listen,
            register=[
                lambda server: add_SlideBatchServiceServicer_to_server(batch_servicer, server),
                lambda server: add_ImageServiceServicer_to_server(image_servicer, server),
                lambda server: add_ModelServiceServicer_to_server(model_servicer, server),
                lambda server: add_OperationsServiceServicer_to_server(operations, server),
            ],
            names=SERVICES,
            metrics=metrics,
            tls=self._tls,
            access=access,
            limits=call_limits(settings),
            refused=self._refusals.note,
            tracer=self._tracer,
        )
        self._health = HealthCheck(
            queue,
            self._objects,
            contact,
            metrics,
            set_serving=self._server.set_serving,
            probe_interval_s=settings.probe_interval_s,
        )
        begin(metrics)
        gauges = Gauges(
            queue,
            self._redis,
            metrics,
            unfinished=reconciler.unfinished,
            folder=self._objects.root if isinstance(self._objects, LocalObjects) else "",
            clock=clock,
        )
        self._loops = [
            Loop("health", self._health.step, _HEALTH_INTERVAL_S),
            Loop("reconcile", reconciler.step, settings.reconcile_interval_s),
            Loop("gauges", gauges.step, settings.reconcile_interval_s),
            Loop("sweep", sweeper.step, settings.reconcile_interval_s),
            Loop("finish", self._finisher.step, settings.finish_interval_s),
            Loop("refusals", self._refusals.step, _REFUSALS_INTERVAL_S),
            Loop("audit", AuditKeeper(audit).step, _AUDIT_INTERVAL_S),
            Loop("retention", Retention(purger, metrics).step, settings.retention_interval_s),
        ]

    async def start(self) -> int:
        await self._objects.probe()
        await check_format(self._objects)
        await self._queue.check_safe(allow_volatile=self._settings.allow_volatile_redis)
        if self._settings.metrics_port >= 0:
            self._metrics.serve(self._settings.metrics_host, self._settings.metrics_port, tls=self._tls)
        port = await self._server.start()
        await self._health.step()
        for loop in self._loops:
            loop.start()
        return port

    async def stop(self) -> None:
        self._watcher.stop()
        self._classifier.stop()
        # Before the server: a last look at its health must not say SERVING again.
        await self._loops[0].stop()
        await self._server.stop(self._settings.shutdown_grace_s)

    async def close(self) -> None:
        for loop in self._loops:
            await loop.stop()
        await self._refusals.finish()
        await self._finisher.stop()
        await self._classifier.close()
        await self._queue.aclose()
        await self._redis.aclose()
        await asyncio.to_thread(self._tracer.close)
        self._metrics.close()
