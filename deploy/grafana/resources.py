"""Dashboard Resources: processor, memory, disk, Redis, certificates, and what the services had to repair."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from panels import ANY_IS_BAD, CALM, Panel, Query, Thresholds, board, lines, number, rows

DAY_S = 86400.0
OURS = '{job=~"gateway|worker|optimizer|report"}'


def resources() -> dashboard.Dashboard:
    """What the stack takes, and how well it is."""
    page = board("Resources", "gramserve-resources", "What the services take and how well they are.", "now-24h")
    page.with_row(dashboard.Row("Services"))
    page.with_panel(
        rows(
            "Services",
            "Every process that is scraped: 1 while it answers, its version, and how long it has run.",
            "short",
            CALM,
            (f"sum by (job, instance) (up{OURS})", "up"),
            ("sum by (instance, version) (gramserve_build_info)", "build"),
            (f"time() - max by (instance) (process_start_time_seconds{OURS})", "age"),
            units={"age": "s"},
            key="instance",
        )
    )
    page.with_panel(
        lines(
            "Contact with Redis",
            "1 while Redis answers a service.",
            "short",
            CALM,
            ("min by (job, instance) (gramserve_queue_contact)", "{{job}} {{instance}}"),
        )
    )
    page.with_row(dashboard.Row("Processor and memory"))
    for panel in (*_processes(), *_stores(), *_health()):
        page.with_panel(panel)
    return page


def _processes() -> list[Panel]:
    mib = 1024.0 * 1024.0
    return [
        _lines(
            "CPU of processes",
            "Cores that each service's own process uses.",
            "short",
            (
                f"sum by (job, instance) (rate(process_cpu_seconds_total{OURS}[$__rate_interval]))",
                _IT,
            ),
        ),
        _lines(
            "CPU of children",
            "Cores that the child processes of each worker use.",
            "short",
            ("sum by (instance) (rate(gramserve_children_cpu_seconds_total[$__rate_interval]))", "{{instance}}"),
        ),
        _lines(
            "Memory of processes",
            "Resident memory of each service's own process.",
            "bytes",
            (f"sum by (job, instance) (process_resident_memory_bytes{OURS})", _IT),
        ),
        _lines(
            "Memory of children",
            "Memory of the child processes of each worker, without files that they map.",
            "bytes",
            ("sum by (instance) (gramserve_children_memory_bytes)", "{{instance}}"),
        ),
        _lines(
            "Growth of memory",
            "Slope of resident memory over six hours, per hour; of processes that have run for six hours.",
            "bytes",
            ("gramserve:memory_slope:bytes_per_hour", _IT),
            thresholds=((20 * mib, "red"),),
        ),
        _lines(
            "Open files",
            "File descriptors that each service's own process has open.",
            "short",
            (f"sum by (job, instance) (process_open_fds{OURS})", _IT),
            thresholds=((10000, "red"),),
        ),
    ]


def _stores() -> list[Panel]:
    return [
        number(
            "Store free",
            "Share of the local store's file system that is free.",
            "gramserve:store_free:ratio",
            "percentunit",
            ((0.0, "red"), (0.05, "yellow"), (0.15, "green")),
            span=6,
        ),
        number(
            "Redis memory",
            "Share of its memory limit that Redis uses; nothing where it has no limit.",
            "gramserve:redis_memory:ratio",
            "percentunit",
            ((0.7, "yellow"), (0.8, "red")),
            span=6,
        ),
        number(
            "First certificate ends",
            "Until the first TLS certificate in use ends; nothing where TLS is off.",
            "min(gramserve_certificate_expires_seconds)",
            "s",
            ((0.0, "red"), (3 * DAY_S, "yellow"), (21 * DAY_S, "green")),
            span=6,
        ),
        number(
            "Files refused",
            "Services whose changed certificates, access file or trusted keys cannot be used; those before serve on.",
            'sum({__name__=~"gramserve_certificate_refused|gramserve_access_file_unusable|gramserve_trusted_keys_unusable"})'
            " or vector(0)",
            "short",
            ANY_IS_BAD,
            span=6,
        ),
        _lines(
            "Store",
            "Size of the local store's file system and what is free of it.",
            "bytes",
            ("max(gramserve_store_size_bytes)", "size"),
            ("min(gramserve_store_free_bytes)", "free"),
        ),
        _lines(
            "Redis",
            "Memory that Redis uses and may use.",
            "bytes",
            ("max(gramserve_redis_memory_bytes)", "used"),
            ("max(gramserve_redis_memory_limit_bytes)", "limit (0: none)"),
        ),
        _lines(
            "Uploads",
            "Bytes received per second.",
            "Bps",
            ("sum(rate(gramserve_upload_bytes_total[$__rate_interval]))", "bytes"),
        ),
        _lines(
            "Purged",
            "Records purged at the end of their retention, in an hour.",
            "short",
            ("sum by (kind) (increase(gramserve_purged_total[1h]))", "{{kind}}"),
        ),
    ]


def _health() -> list[Panel]:
    return [
        _lines(
            "Children that died",
            "Child processes that died and were replaced, in a quarter of an hour.",
            "short",
            ("sum by (instance) (increase(gramserve_child_restarts_total[15m]))", "{{instance}}"),
            thresholds=((5, "red"),),
        ),
        _lines(
            "Writes refused",
            "Transitions that came after their lease was lost, in a quarter of an hour.",
            "short",
            ("sum by (job, transition) (increase(gramserve_fenced_total[15m]))", "{{job}}: {{transition}}"),
            thresholds=((10, "red"),),
        ),
        _lines(
            "Repairs of the queue",
            "Slides put back into the queue, by cause, in an hour; lease is a worker that died or lost contact.",
            "short",
            ("sum by (cause) (increase(gramserve_reconcile_repairs_total[1h]))", "{{cause}}"),
            thresholds=((100, "red"),),
        ),
        _lines(
            "Inference requests",
            "Requests by the Open Inference Protocol that run or wait, and those not run in an hour, by cause.",
            "short",
            ("sum(gramserve_infer_in_flight)", "in flight"),
            ("sum by (cause) (increase(gramserve_infer_dropped_total[1h]))", "not run: {{cause}}"),
        ),
        _lines(
            "Protection that kernels lack",
            "Protections of child processes that are missing: 1 for each.",
            "short",
            ("sum by (instance, protection) (gramserve_sandbox_missing)", "{{instance}}: {{protection}}"),
            thresholds=ANY_IS_BAD,
        ),
        _lines(
            "Audit records",
            "Number of the last audit record that each process knows; it only grows.",
            "short",
            ("max by (job, instance) (gramserve_audit_records)", _IT),
        ),
    ]


_IT = "{{job}} {{instance}}"


def _lines(title: str, description: str, unit: str, *queries: Query, thresholds: Thresholds = CALM) -> Panel:
    return lines(title, description, unit, thresholds, *queries)
