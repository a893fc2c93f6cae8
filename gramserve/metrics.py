"""Prometheus metrics: the one list of all of them, and the port that shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from gramserve.errors import Reason, Unsafe
from gramserve.tls.https import HttpServer
from gramserve.tls.service import Tls

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
# What may last a night.
_HOURS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 1800, 3600, 7200, 14400, 28800, 43200)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Spec:
    """One metric: kind is counter, gauge or histogram; labels take values from closed sets only.

    `buckets` are the upper bounds of a histogram's, in seconds but for `call_confidence`.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = _SECONDS


SPECS = (
    # Every service.
    Spec("build_info", "gauge", "1, with the version of gramserve that runs here.", ("version",)),
    Spec("rpc_requests", "counter", "RPCs answered, by method and gRPC status code.", ("method", "code")),
    Spec("rpc_seconds", "histogram", "Time to answer an RPC; streams until their end.", ("method",)),
    Spec("trusted_keys_unusable", "gauge", "1 while the file of trusted keys cannot be used and those before hold on."),
    Spec("access_file_unusable", "gauge", "1 while the access file cannot be used and the one before holds on."),
    Spec("queue_contact", "gauge", "1 while Redis answers, else 0."),
    Spec("fenced", "counter", "Transitions refused because the lease was no longer held.", ("transition",)),
    Spec("reconcile_repairs", "counter", "Slides put back into the queue by the reconciler, by cause.", ("cause",)),
    Spec("leases", "gauge", "Slides leased by this worker now."),
    Spec("audit_records", "gauge", "Number of the last audit record that this process knows."),
    Spec("upload_bytes", "counter", "Bytes received in uploads."),
    Spec(
        "certificate_expires_seconds",
        "gauge",
        "Time until a TLS certificate in use ends: service, client_ca, ca, client.",
        ("certificate",),
    ),
    Spec("certificate_refused", "gauge", "1 while changed TLS files cannot be used and those before serve on, else 0."),
    # The gateway.
    Spec("slides_accepted", "counter", "Slides durably accepted by this gateway.", ("priority",)),
    Spec("slides_resubmitted", "counter", "Slides of ended batches that a retry put back.", ("priority",)),
    Spec(
        "slides_ended",
        "counter",
        "Slides that the gateway ended: not begun in time, cancelled, given up after their workers died. Once all "
        "batches ended, slides accepted + resubmitted = slides ended + finished, over all processes.",
        ("state", "reason"),
    ),
    Spec("batches_finished", "counter", "Batches brought into a terminal state by this gateway.", ("state",)),
    Spec("purged", "counter", "Records purged at the end of their retention, by kind.", ("kind",)),
    Spec(
        "queue_depth", "gauge", "Slides in the queue by place: ready_stat, ready_routine, leased, delayed.", ("place",)
    ),
    Spec(
        "queue_oldest_seconds",
        "gauge",
        "How long the next slide of this priority (STAT, ROUTINE) has waited; 0 where none waits.",
        ("priority",),
    ),
    Spec(
        "slides_due",
        "gauge",
        "Slides not ended that are due within 15m, 1h, 2h, 4h, 8h, 16h, or at any time: cumulative, overdue ones "
        "included; those without a due time only in any. Every gateway says this of all batches, those that others "
        "accepted some seconds later.",
        ("within",),
    ),
    Spec("store_size_bytes", "gauge", "Size of the file system of a local store."),
    Spec("store_free_bytes", "gauge", "Bytes free for gramserve in the file system of a local store."),
    Spec("redis_memory_bytes", "gauge", "Memory that Redis uses (used_memory)."),
    Spec("redis_memory_limit_bytes", "gauge", "Memory that Redis may use (maxmemory); 0 where there is no limit."),
    # The worker: slides.
    Spec(
        "slide_wait_seconds",
        "histogram",
        "From acceptance to the first lease of a slide, by priority (STAT, ROUTINE).",
        ("priority",),
        _HOURS,
    ),
    Spec(
        "slide_seconds",
        "histogram",
        "From acceptance of a slide until its result was durable, by priority (STAT, ROUTINE).",
        ("priority",),
        _HOURS,
    ),
    Spec(
        "slide_stage_seconds",
        "histogram",
        "Time of a slide in a stage: run, store; in a child: load, fetch, decode, tile, infer, aggregate.",
        ("stage",),
    ),
    Spec("slide_running_seconds", "gauge", "How long this worker has held the slide that it holds longest; 0: none."),
    Spec("slides_finished", "counter", "Slides completed by this worker, by state and reason.", ("state", "reason")),
    Spec("slides_reused", "counter", "Slides that got the call of the same pixels, made before; not run."),
    Spec("slide_retries", "counter", "Attempts that failed and were queued again, by reason.", ("reason",)),
    Spec("slides_quarantined", "counter", "Slides given up after crashing their process three times."),
    Spec("tiles", "counter", "Tiles read by this worker."),
    Spec("infer_in_flight", "gauge", "Inference requests that run and wait in this worker."),
    Spec("infer_dropped", "counter", "Inference requests not run: exhausted, cancelled, deadline.", ("cause",)),
    Spec("sandbox_missing", "gauge", "1 where the kernel lacks this protection of child processes.", ("protection",)),
    Spec("children", "gauge", "Child processes of this worker that are ready."),
    Spec("child_restarts", "counter", "Child processes that died and were replaced."),
    Spec("children_memory_bytes", "gauge", "Memory of this worker's children, without files that they map."),
    Spec("children_cpu_seconds", "counter", "CPU time of this worker's children, those that ended included."),
    # The worker: models and what they say.
    Spec("models_loaded", "gauge", "Model versions loaded by this worker."),
    Spec("models_memory_bytes", "gauge", "Memory of the versions loaded by this worker, over all of its children."),
    Spec("models_failed", "gauge", "Promoted versions that cannot serve on this worker now; what served before does."),
    Spec(
        "model_load_failures", "counter", "Model versions that could not be loaded or verified, by reason.", ("reason",)
    ),
    Spec(
        "model_loaded",
        "gauge",
        "1 while a child of this worker has this version loaded in this engine.",
        ("model", "version", "engine"),
    ),
    Spec(
        "model_load_seconds",
        "histogram",
        "Time of a step of loading a version into a child: fetch, verify, engine (opened, and measured where there is "
        "a choice), golden (vectors, and first runs).",
        ("step",),
    ),
    Spec("slides_called", "counter", "Slides that got a call, by the version that made it.", ("model", "version")),
    Spec("slides_for_review", "counter", "Slides whose call a person must look at.", ("model", "version")),
    Spec("review_reasons", "counter", "Reasons for which a person must look; a slide can have several.", ("reason",)),
    Spec(
        "calls",
        "counter",
        "Slides by what was called: a label of the artifact, NO_ORGANISM_SEEN, UNASSESSABLE; with several organisms "
        "each of them and MIXED_ORGANISMS_SEEN.",
        ("model", "version", "call"),
    ),
    Spec(
        "call_confidence",
        "histogram",
        "Probability (0 to 1) of the most probable finding of a slide, where there is one.",
        ("model", "version"),
        _SHARES,
    ),
    Spec(
        "tile_calls",
        "counter",
        "Tiles fit to read, by their most probable label.",
        ("model", "version", "label"),
    ),
    Spec(
        "tile_scores",
        "counter",
        "Tiles fit to read, by the calibrated probability of their most probable label: bands 0.0 (below 0.1) to 0.9.",
        ("model", "version", "band"),
    ),
    Spec(
        "reference_tile_calls",
        "gauge",
        "Share (0 to 1) of tiles by label on the artifact's validation split, while it is loaded; none in artifacts "
        "that do not say.",
        ("model", "version", "label"),
    ),
    Spec(
        "reference_tile_scores",
        "gauge",
        "Share (0 to 1) of tiles by band, as reference_tile_calls.",
        ("model", "version", "band"),
    ),
    Spec("shadow_slides", "counter", "Slides run by a shadow version beside production, by verdict.", ("verdict",)),
    # The optimizer.
    Spec("optimizations_running", "gauge", "Optimizations that run in this optimizer now."),
    Spec("optimization_progress", "gauge", "How far the running optimization is, 0 to 1; 0 while none runs."),
    Spec("optimizations_finished", "counter", "Optimizations that ended, by state.", ("state",)),
    Spec("optimization_stage_seconds", "histogram", "Time of an optimization in a stage.", ("stage",)),
    Spec("optimization_trials", "counter", "Trials of optimizations, by the state that they reached.", ("state",)),
    # The night report.
    Spec("report_written_timestamp_seconds", "gauge", "When the newest night report was written, in Unix time."),
    Spec(
        "report_overdue_seconds",
        "gauge",
        "For how long the night report has been missing that should be there, or that of its whole night; 0: it is.",
    ),
    Spec("report_failures", "counter", "Times that a night report could not be written; it is tried every 30 s."),
)


class Metrics:
    """The metrics of one process, each under `gramserve_<name>`; also its CPU, memory and garbage collections.

    A gauge shows nothing before it has a value: 0 free bytes of a store that this process has not would be an alarm.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._specs = {spec.name: spec for spec in SPECS}
        self._metrics: dict[str, Any] = {}
        # A metric with its labels is looked up once: prometheus_client takes longer for that than for counting.
        self._labelled: dict[tuple[Any, ...], Any] = {}
        self._servers: list[HttpServer] = []
        for spec in SPECS:
            if spec.kind != "gauge":
                self._metric(spec.name, spec.kind)
        self.set("build_info", 1, version=installed_version())

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add `amount` to a counter of SPECS."""
        self._one("counter", name, labels).inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge of SPECS."""
        self._one("gauge", name, labels).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Observe a duration in seconds, or what else it is of, in a histogram of SPECS."""
        self._one("histogram", name, labels).observe(value)

    def series(self, name: str, **labels: str) -> Any:
        """The series itself, with `inc`, `set` or `observe` as its kind has, for whoever counts in it for each slide.

        It exists from now on, at 0. Let go of it before these labels are forgotten.
        """
        return self._one(self._specs[name].kind, name, labels)

    def expect(self, name: str, **labels: str) -> None:
        """Show a counter or histogram with these labels from now on, at 0 until it happens."""
        self.series(name, **labels)

    def follow(self, name: str, read: Callable[[], float | None]) -> None:
        """Show what `read` says whenever the metrics are read, and nothing while that is None.

        For a gauge or counter of SPECS without labels. `read` runs in another thread, in no event loop.
        """
        spec = self._specs[name]
        if (former := self._metrics.pop(name, None)) is not None:
            self.registry.unregister(former)
        self._metrics[name] = _Followed(spec, read)
        self.registry.register(self._metrics[name])

    def forget(self, name: str = "", **labels: str) -> None:
        """Show nothing more under these labels, of one metric or of all: what was let go leaves no series behind."""
        wanted = set(labels.items())
        for key in [key for key in self._labelled if wanted <= set(key[1:]) and name in {"", key[0]}]:
            del self._labelled[key]
            values = dict(key[1:])
            self._metrics[key[0]].remove(*(values[label] for label in self._specs[key[0]].labels))

    def _one(self, kind: str, name: str, labels: dict[str, str]) -> Any:
        """The metric `name` with these labels."""
        key = (name, *labels.items())
        found = self._labelled.get(key)
        if found is None:
            metric = self._metric(name, kind)
            found = self._labelled[key] = metric.labels(**labels) if labels else metric
        return found

    def _metric(self, name: str, kind: str) -> Any:
        """The metric `name`, of all labels; KeyError for one that is not of this kind."""
        spec = self._specs[name]
        if spec.kind != kind:
            raise KeyError(name)
        found = self._metrics.get(name)
        if found is None:
            known = (f"gramserve_{name}", spec.help, spec.labels)
            if kind == "histogram":
                found = Histogram(*known, registry=self.registry, buckets=spec.buckets)
            else:
                found = (Counter if kind == "counter" else Gauge)(*known, registry=self.registry)
            self._metrics[name] = found
        return found

    def serve(self, host: str, port: int, *, tls: Tls | None = None) -> int:
        """Show the metrics at host:port/metrics from a thread, by HTTPS where `tls` serves; port 0 takes a free one.

        Returns the port. Raises Unsafe for plain text beyond this machine, and when the port is taken.
        """
        try:
            server = HttpServer("the metrics", host, port, make_wsgi_app(self.registry), tls)
        except OSError:
            message = f"cannot show metrics on {host}:{port}; is the port taken?"
            raise Unsafe(Reason.INVALID_SETTINGS, message) from None
        self._servers.append(server)
        return server.port

    def close(self) -> None:
        """Stop showing the metrics."""
        while self._servers:
            self._servers.pop().close()


class _Followed(Collector):
    """One metric without labels whose value is asked for when it is shown."""

    def __init__(self, spec: Spec, read: Callable[[], float | None]) -> None:
        self._spec = spec
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """The metric with its value now."""
        value = self._read()
        if value is not None:
            family = CounterMetricFamily if self._spec.kind == "counter" else GaugeMetricFamily
            yield family(f"gramserve_{self._spec.name}", self._spec.help, value=value)


def installed_version() -> str:
    """The version of gramserve, as it was installed."""
    try:
        return version("gramserve")
    except PackageNotFoundError:
        return "not installed"
