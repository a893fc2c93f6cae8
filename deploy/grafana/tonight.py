"""Dashboard Tonight: will this night finish, what failed and why, what is stuck, who works."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from panels import ANY_IS_BAD, CALM, bars, board, count, lines, number, rows

FINISHED = "gramserve_slides_finished_total"
ENDED = "gramserve_slides_ended_total"
FIRING = 'ALERTS{system="gramserve", alertstate="firing", severity!="none"}'
SUCCEEDED = f'increase({{__name__=~"{FINISHED}|{ENDED}", state="SUCCEEDED"}}[$__range])'
FAILED = f'increase({{__name__=~"{FINISHED}|{ENDED}", state="FAILED"}}[$__range])'


def tonight() -> dashboard.Dashboard:
    """The dashboard that an operator leaves open."""
    night = board(
        "Tonight",
        "gramserve-tonight",
        "Whether tonight's slides will be done in time. The night report counts exactly; this is what Prometheus saw.",
        "now-14h",
    )
    night.with_row(dashboard.Row("Will it finish?"))
    night.with_panel(
        count(
            "Accepted",
            "Slides accepted in the time shown, those that a retry put back included.",
            "sum(increase(gramserve_slides_accepted_total[$__range]))"
            " + (sum(increase(gramserve_slides_resubmitted_total[$__range])) or vector(0))",
            CALM,
        )
    )
    night.with_panel(
        count(
            "Succeeded",
            "Slides that got a call in the time shown.",
            f"sum({SUCCEEDED})",
            CALM,
        )
    )
    night.with_panel(
        count(
            "Failed",
            "Slides that failed in the time shown, for whatever reason.",
            f"sum({FAILED})",
            ((1, "yellow"), (50, "red")),
        )
    )
    night.with_panel(
        count(
            "Expired or cancelled",
            "Slides whose due time passed before they began, or that were cancelled, in the time shown.",
            f'sum(increase({ENDED}{{state=~"EXPIRED|CANCELLED"}}[$__range]))',
            ((1, "yellow"), (50, "red")),
        )
    )
    night.with_panel(
        number(
            "Not ended",
            "Slides that wait or run now.",
            "gramserve:slides_unfinished:slides or vector(0)",
            "short",
            CALM,
        )
    )
    night.with_panel(
        number(
            "Slides per minute",
            "Slides finished per minute over the last ten minutes.",
            "60 * gramserve:slides_finished:rate10m",
            "short",
            CALM,
        )
    )
    night.with_panel(
        number(
            "Time left",
            "Until all slides are done, at the rate of the last ten minutes.",
            "gramserve:slides_left:seconds",
            "s",
            ((4 * 3600, "yellow"), (10 * 3600, "red")),
        )
    )
    night.with_panel(
        number(
            "Load until due",
            "Share of the time until they are due that the slides need, of the window where it is worst. Above 100 %"
            " slides will be late. Says nothing while no slide waits.",
            "max(gramserve:due_load:ratio)",
            "percentunit",
            ((0.8, "yellow"), (1, "red")),
        )
    )
    night.with_panel(
        bars(
            "Slides by how they ended",
            "For each quarter of an hour.",
            "short",
            CALM,
            (f"sum by (state) (increase({FINISHED}[$__interval])) > 0", "{{state}}"),
            (f"sum by (state) (increase({ENDED}[$__interval])) > 0", "{{state}} (by the gateway)"),
        )
    )
    night.with_panel(
        lines(
            "Slides in the queue",
            "Ready to run, running, and waiting for another attempt.",
            "short",
            CALM,
            ("max by (place) (gramserve_queue_depth)", "{{place}}"),
            stacked=True,
        )
    )
    night.with_panel(
        lines(
            "Slides due within",
            "Slides not ended by how soon they are due, overdue ones included.",
            "short",
            CALM,
            ("max by (within) (gramserve_slides_due)", "{{within}}"),
        )
    )
    night.with_panel(
        lines(
            "Load until due, by window",
            "Share of the time until then that the slides due then need. Above the line they will be late.",
            "percentunit",
            ((0.8, "yellow"), (1, "red")),
            ("gramserve:due_load:ratio", "within {{within}}"),
        )
    )
    night.with_row(dashboard.Row("What failed, what is stuck?"))
    night.with_panel(
        rows(
            "Alerts",
            "What fires now. docs/runbooks has a page for each.",
            "short",
            CALM,
            (f"sum by (alertname, severity, instance) ({FIRING})", "firing"),
        )
    )
    night.with_panel(
        rows(
            "Failures by reason",
            "Slides that failed in the time shown.",
            "short",
            ((1, "yellow"), (50, "red")),
            (f"sort_desc(sum by (reason) ({FAILED}) > 0)", "slides"),
        )
    )
    night.with_panel(
        lines(
            "Oldest waiting slide",
            "How long the next slide of each priority has waited. A STAT slide should wait for seconds.",
            "s",
            ((30, "red"),),
            ("max by (priority) (gramserve_queue_oldest_seconds)", "{{priority}}"),
        )
    )
    night.with_panel(
        lines(
            "Slowest running slide",
            "How long each worker has held the slide that it holds longest.",
            "s",
            ((600, "yellow"), (1800, "red")),
            ("max by (instance) (gramserve_slide_running_seconds)", "{{instance}}"),
        )
    )
    night.with_panel(
        bars(
            "Attempts that failed, by reason",
            "Attempts that were queued again, for each quarter of an hour.",
            "short",
            CALM,
            ("sum by (reason) (increase(gramserve_slide_retries_total[$__interval])) > 0", "{{reason}}"),
        )
    )
    night.with_panel(
        bars(
            "Batches that ended",
            "By state, for each quarter of an hour.",
            "short",
            CALM,
            ("sum by (state) (increase(gramserve_batches_finished_total[$__interval])) > 0", "{{state}}"),
        )
    )
    night.with_panel(
        count(
            "Quarantined",
            "Slides given up after crashing three processes, in the time shown.",
            "sum(increase(gramserve_slides_quarantined_total[$__range]))",
            ANY_IS_BAD,
            span=12,
        )
    )
    night.with_panel(
        number(
            "Failing share",
            "Share of the slides of the last half hour that failed; from 20 slides on.",
            "gramserve:slides_failed:share30m",
            "percentunit",
            ((0.05, "yellow"), (0.2, "red")),
            span=12,
        )
    )
    night.with_row(dashboard.Row("Who works?"))
    night.with_panel(
        number("Workers up", "Workers that answer.", 'sum(up{job="worker"})', "short", CALM, span=6),
    )
    night.with_panel(
        number("Gateways up", "Gateways that answer.", 'sum(up{job="gateway"})', "short", CALM, span=6),
    )
    night.with_panel(
        number(
            "Services without Redis",
            "Services that do not reach Redis now.",
            "count(gramserve_queue_contact == 0) or vector(0)",
            "short",
            ANY_IS_BAD,
            span=6,
        ),
    )
    night.with_panel(
        number(
            "Since the night report",
            "How long ago the last night report was written.",
            "time() - max(gramserve_report_written_timestamp_seconds)",
            "s",
            ((26 * 3600, "yellow"), (50 * 3600, "red")),
            span=6,
        ),
    )
    night.with_panel(
        rows(
            "Workers",
            "Each worker now.",
            "short",
            CALM,
            ("sum by (instance) (gramserve_leases)", "leased"),
            ("sum by (instance) (gramserve_children)", "children"),
            ("max by (instance) (gramserve_slide_running_seconds)", "longest slide"),
            (f"60 * sum by (instance) (rate({FINISHED}[10m]))", "slides per minute"),
            (f'sum by (instance) (increase({FINISHED}{{state="FAILED"}}[$__range]))', "failed"),
            ("sum by (instance) (increase(gramserve_child_restarts_total[$__range]))", "children died"),
            ("max by (instance) (gramserve_models_loaded)", "models"),
            span=24,
            units={"longest slide": "s"},
            key="instance",
        )
    )
    return night
