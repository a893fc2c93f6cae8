"""Prometheus metrics: the one list of all of them, and the port that shows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from gramserve.tls.https import HttpServer
from gramserve.tls.service import Tls

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: kind is counter, gauge or histogram (seconds); labels take values from closed sets only."""

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()


SPECS = (
    Spec("rpc_requests", "counter", "RPCs answered, by method and gRPC status code.", ("method", "code")),
    Spec("rpc_seconds", "histogram", "Time to answer an RPC; streams until their end.", ("method",)),
    Spec("access_file_unusable", "gauge", "1 while the access file cannot be used and the one before holds on."),
    Spec("slides_accepted", "counter", "Slides durably accepted by this gateway.", ("priority",)),
    Spec("slides_finished", "counter", "Slides completed by this worker, by state and reason.", ("state", "reason")),
    Spec(
        "slide_stage_seconds",
        "histogram",
        "Time of a slide in a stage: queue, run, store; in a child: load, fetch, decode, tile, infer, aggregate.",
        ("stage",),
    ),
    Spec("tiles", "counter", "Tiles read by this worker."),
    Spec("slides_reused", "counter", "Slides that got the call of the same pixels, made before; not run."),
    Spec("slide_retries", "counter", "Attempts that failed and were queued again, by reason.", ("reason",)),
    Spec("slides_quarantined", "counter", "Slides given up after crashing their process three times."),
    Spec("fenced", "counter", "Transitions refused because the lease was no longer held.", ("transition",)),
    Spec("infer_in_flight", "gauge", "Inference requests that run and wait in this worker."),
    Spec("infer_dropped", "counter", "Inference requests not run: exhausted, cancelled, deadline.", ("cause",)),
    Spec("leases", "gauge", "Slides leased by this worker now."),
    Spec("sandbox_missing", "gauge", "1 where the kernel lacks this protection of child processes.", ("protection",)),
    Spec("children", "gauge", "Child processes of this worker that are ready."),
    Spec("child_restarts", "counter", "Child processes that died and were replaced."),
    Spec("models_loaded", "gauge", "Model versions loaded by this worker."),
    Spec("models_memory_bytes", "gauge", "Memory of the versions loaded by this worker, over all of its children."),
    Spec("shadow_slides", "counter", "Slides run by a shadow version beside production, by verdict.", ("verdict",)),
    Spec("models_failed", "gauge", "Promoted versions that cannot serve on this worker now; what served before does."),
    Spec(
        "model_load_failures", "counter", "Model versions that could not be loaded or verified, by reason.", ("reason",)
    ),
    Spec(
        "queue_depth", "gauge", "Slides in the queue by place: ready_stat, ready_routine, leased, delayed.", ("place",)
    ),
    Spec("queue_oldest_seconds", "gauge", "Age of the slide that waits longest."),
    Spec("queue_contact", "gauge", "1 while Redis answers, else 0."),
    Spec("reconcile_repairs", "counter", "Slides put back into the queue by the reconciler, by cause.", ("cause",)),
    Spec("batches_finished", "counter", "Batches brought into a terminal state by this gateway.", ("state",)),
    Spec("audit_records", "gauge", "Number of the last audit record that this process knows."),
    Spec("purged", "counter", "Records purged at the end of their retention, by kind.", ("kind",)),
    Spec("upload_bytes", "counter", "Bytes received in uploads."),
    Spec("optimizations_finished", "counter", "Optimizations that ended, by state.", ("state",)),
    Spec("optimization_stage_seconds", "histogram", "Time of an optimization in a stage.", ("stage",)),
    Spec("optimization_trials", "counter", "Trials of optimizations, by the state that they reached.", ("state",)),
    Spec(
        "certificate_expires_seconds",
        "gauge",
        "Time until a TLS certificate in use ends: service, client_ca, ca, client.",
        ("certificate",),
    ),
    Spec("certificate_refused", "gauge", "1 while changed TLS files cannot be used and those before serve on, else 0."),
)


class Metrics:
    """The metrics of one process, each under `gramserve_<name>`; also its CPU, memory and garbage collections."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._counters: dict[str, Counter] = {}
        self._gauges: dict[str, Gauge] = {}
        self._histograms: dict[str, Histogram] = {}
        # A metric with its labels is looked up once: prometheus_client takes longer for that than for counting.
        self._labelled: dict[tuple[object, ...], Any] = {}
        self._servers: list[HttpServer] = []
        for spec in SPECS:
            name = f"gramserve_{spec.name}"
            if spec.kind == "counter":
                self._counters[spec.name] = Counter(name, spec.help, spec.labels, registry=self.registry)
            elif spec.kind == "gauge":
                self._gauges[spec.name] = Gauge(name, spec.help, spec.labels, registry=self.registry)
            else:
                self._histograms[spec.name] = Histogram(
                    name, spec.help, spec.labels, registry=self.registry, buckets=_SECONDS
                )

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add `amount` to a counter of SPECS."""
        self._one(self._counters, name, labels).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge of SPECS."""
        self._one(self._gauges, name, labels).set(value)

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """Observe a duration in a histogram of SPECS."""
        self._one(self._histograms, name, labels).observe(seconds)

    def _one(self, metrics: Mapping[str, Any], name: str, labels: dict[str, str]) -> Any:
        """The metric `name` with these labels."""
        key = (name, *labels.items())
        found = self._labelled.get(key)
        if found is None:
            metric = metrics[name]
            found = self._labelled[key] = metric.labels(**labels) if labels else metric
        return found

    def serve(self, host: str, port: int, *, tls: Tls | None = None) -> int:
        """Show the metrics at host:port/metrics from a thread, by HTTPS where `tls` serves; port 0 takes a free one.

        Returns the port. Raises Unsafe for plain text beyond this machine, OSError when the port is taken.
        """
        server = HttpServer("the metrics", host, port, make_wsgi_app(self.registry), tls)
        self._servers.append(server)
        return server.port

    def close(self) -> None:
        """Stop showing the metrics."""
        while self._servers:
            self._servers.pop().close()
