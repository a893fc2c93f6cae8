"""Dashboard Optimizer: what runs, how far it is, which trials were made, what it takes."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from panels import CALM, bars, board, count, lines, number, rows

OPTIMIZER = '{job="optimizer"}'


def optimizer() -> dashboard.Dashboard:
    """Optimizations, from the outside."""
    page = board("Optimizer", "gramserve-optimizer", "Optimizations that run and that ended.", "now-24h")
    page.with_row(dashboard.Row("Optimizations"))
    page.with_panel(
        number("Running", "Optimizations that run now.", "sum(gramserve_optimizations_running)", "short", CALM, span=6)
    )
    page.with_panel(
        number(
            "Progress",
            "How far the running optimization is; 0 while none runs.",
            "max(gramserve_optimization_progress)",
            "percentunit",
            CALM,
            span=6,
        )
    )
    for title, state, bad in (("Accepted", "SUCCEEDED", False), ("Failed", "FAILED", True)):
        page.with_panel(
            count(
                title,
                "Optimizations that ended so in the time shown.",
                f'sum(increase(gramserve_optimizations_finished_total{{state="{state}"}}[$__range])) or vector(0)',
                ((1, "yellow"), (5, "red")) if bad else CALM,
                span=6,
            )
        )
    page.with_panel(
        lines(
            "Progress over time",
            "How far the running optimization is.",
            "percentunit",
            CALM,
            ("max by (instance) (gramserve_optimization_progress)", "{{instance}}"),
        )
    )
    page.with_panel(
        bars(
            "Optimizations that ended",
            "By state, for each hour.",
            "short",
            CALM,
            ("sum by (state) (increase(gramserve_optimizations_finished_total[$__interval]))", "{{state}}"),
            interval="1h",
        )
    )
    page.with_panel(
        rows(
            "Time by stage",
            "Time that optimizations took in each stage, of those that ended in the time shown.",
            "s",
            CALM,
            ("sum by (stage) (increase(gramserve_optimization_stage_seconds_sum[$__range]))", "time"),
            ("sum by (stage) (increase(gramserve_optimization_stage_seconds_count[$__range]))", "times"),
            units={"times": "short"},
            key="stage",
        )
    )
    page.with_panel(
        bars(
            "Trials",
            "Candidates tried, accepted and dropped.",
            "short",
            CALM,
            ("sum by (state) (increase(gramserve_optimization_trials_total[$__interval]))", "{{state}}"),
        )
    )
    page.with_row(dashboard.Row("Process"))
    page.with_panel(
        lines(
            "RPCs of the optimizer",
            "RPCs answered per second, by code.",
            "reqps",
            CALM,
            (f"sum by (code) (rate(gramserve_rpc_requests_total{OPTIMIZER}[$__rate_interval]))", "{{code}}"),
            span=8,
        )
    )
    page.with_panel(
        lines(
            "CPU",
            "Cores that the optimizer's own process uses; a running job is a process of its own.",
            "short",
            CALM,
            (f"sum by (instance) (rate(process_cpu_seconds_total{OPTIMIZER}[$__rate_interval]))", "{{instance}}"),
            span=8,
        )
    )
    page.with_panel(
        lines(
            "Memory",
            "Resident memory of the optimizer's own process.",
            "bytes",
            CALM,
            (f"sum by (instance) (process_resident_memory_bytes{OPTIMIZER})", "{{instance}}"),
            span=8,
        )
    )
    return page
