"""Dashboard Latency: how long slides wait and run, stage by stage, STAT and routine."""

from __future__ import annotations

from collections.abc import Mapping

from grafana_foundation_sdk.builders import dashboard
from panels import CALM, Panel, Query, Thresholds, board, clouds, lines, number

SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
STAT_S: Thresholds = ((1, "yellow"), (30, "red"))
ROUTINE_S: Thresholds = ((4 * 3600, "yellow"), (12 * 3600, "red"))


def latency() -> dashboard.Dashboard:
    """Quantiles of slides, stages and RPCs."""
    page = board("Latency", "gramserve-latency", "How long slides and RPCs take, and where the time goes.", "now-6h")
    page.with_row(dashboard.Row("Slides"))
    for priority, thresholds in (("STAT", STAT_S), ("ROUTINE", ROUTINE_S)):
        page.with_panel(_recent(f"{priority}: p95 of wait", "slide_wait_seconds", priority, thresholds))
        page.with_panel(_recent(f"{priority}: p95 until durable", "slide_seconds", priority, thresholds))
    for priority, thresholds in (("STAT", STAT_S), ("ROUTINE", ROUTINE_S)):
        page.with_panel(
            lines(
                f"{priority}: wait",
                f"From acceptance to the first lease of a {priority} slide.",
                "s",
                thresholds,
                *_quantiles("slide_wait_seconds", f'{{priority="{priority}"}}'),
            )
        )
        page.with_panel(
            lines(
                f"{priority}: until the result is durable",
                f"From acceptance of a {priority} slide until its result was durable in the store.",
                "s",
                thresholds,
                *_quantiles("slide_seconds", f'{{priority="{priority}"}}'),
            )
        )
    page.with_panel(
        clouds(
            "Time until durable, all slides",
            "How many slides took how long.",
            "s",
            "sum by (le) (increase(gramserve_slide_seconds_bucket[$__rate_interval]))",
            span=24,
        )
    )
    page.with_row(dashboard.Row("Stages of a slide"))
    for name, share in SHARES.items():
        page.with_panel(
            lines(
                f"Stages: {name}",
                "run is all the time in a child, store the writing of the result; load to aggregate are parts of run.",
                "s",
                ((60, "yellow"), (300, "red")),
                *_quantiles("slide_stage_seconds", "", "stage", {"{{stage}}": share}),
                span=8,
            )
        )
    page.with_panel(
        lines(
            "Where the time goes",
            "Seconds that children spend in each stage, per second.",
            "short",
            CALM,
            (
                'sum by (stage) (rate(gramserve_slide_stage_seconds_sum{stage!~"run|store"}[$__rate_interval]))',
                "{{stage}}",
            ),
            stacked=True,
        )
    )
    page.with_panel(
        lines(
            "Tiles per second",
            "Tiles read by all workers.",
            "short",
            CALM,
            ("sum(rate(gramserve_tiles_total[$__rate_interval]))", "tiles"),
        )
    )
    page.with_row(dashboard.Row("RPCs"))
    page.with_panel(
        lines(
            "RPCs: p95 by method",
            "Time to answer; streams count until their end and say little here.",
            "s",
            ((1, "yellow"), (10, "red")),
            *_quantiles("rpc_seconds", "", "method", {"{{method}}": 0.95}),
        )
    )
    page.with_panel(
        lines(
            "RPCs by code",
            "RPCs answered per second, by gRPC status code.",
            "reqps",
            CALM,
            ("sum by (code) (rate(gramserve_rpc_requests_total[$__rate_interval]))", "{{code}}"),
            stacked=True,
        )
    )
    return page


def _recent(title: str, metric: str, priority: str, thresholds: Thresholds) -> Panel:
    return number(
        title,
        "95 % of the slides of the last ten minutes took no longer.",
        f'gramserve:{metric}:p95_10m{{priority="{priority}"}}',
        "s",
        thresholds,
        span=6,
    )


def _quantiles(metric: str, selector: str, by: str = "", legends: Mapping[str, float] = SHARES) -> list[Query]:
    """The quantiles of a histogram by the label `by`, each with its legend."""
    kept = f"{by}, le" if by else "le"
    rate = f"sum by ({kept}) (rate(gramserve_{metric}_bucket{selector}[$__rate_interval]))"
    return [(f"histogram_quantile({share}, {rate})", legend) for legend, share in legends.items()]
