"""Dashboard Models: which versions serve, what they say, how sure they are, and whether that has shifted."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard
from panels import ANY_IS_BAD, CALM, Thresholds, bars, board, choice, clouds, count, lines, number, rows

THESE = '{model=~"$model"}'
HOUR = f"sum by (model, version, le) (increase(gramserve_call_confidence_bucket{THESE}[1h]))"
SHIFT: Thresholds = ((0.1, "yellow"), (0.25, "red"))


def models() -> dashboard.Dashboard:
    """What the model versions say."""
    page = board("Models", "gramserve-models", "What each model version calls, and how that changes.", "now-24h")
    page.with_variable(choice("model", "Model", "gramserve_slides_called_total"))
    page.with_row(dashboard.Row("Versions"))
    page.with_panel(
        rows(
            "Loaded versions",
            "On how many workers each version is loaded, by engine.",
            "short",
            CALM,
            (f"sum by (model, version, engine) (gramserve_model_loaded{THESE})", "workers"),
        )
    )
    page.with_panel(
        number(
            "Versions that cannot serve",
            "Promoted versions that a worker cannot load or verify now; what served before goes on.",
            "max(gramserve_models_failed)",
            "short",
            ANY_IS_BAD,
            span=6,
        )
    )
    page.with_panel(
        number(
            "Memory of models",
            "Memory of all loaded versions, over all children of all workers.",
            "sum(gramserve_models_memory_bytes)",
            "bytes",
            CALM,
            span=6,
        )
    )
    page.with_panel(
        lines(
            "Time to load a version",
            "95 % of the loads took no longer, by step; golden is the check against the artifact's own answers.",
            "s",
            ((30, "yellow"), (120, "red")),
            (
                "histogram_quantile(0.95, sum by (step, le) (increase(gramserve_model_load_seconds_bucket[1h])))",
                "{{step}}",
            ),
        )
    )
    page.with_panel(
        lines(
            "Loads that failed",
            "Loads or verifications of a version that failed, by reason, in an hour.",
            "short",
            ANY_IS_BAD,
            ("sum by (reason) (increase(gramserve_model_load_failures_total[1h]))", "{{reason}}"),
        )
    )
    page.with_row(dashboard.Row("Calls"))
    page.with_panel(
        bars(
            "Calls",
            "Slides by what was called; with several organisms each of them and MIXED_ORGANISMS_SEEN.",
            "short",
            CALM,
            (f"sum by (call) (increase(gramserve_calls_total{THESE}[$__interval]))", "{{call}}"),
        )
    )
    page.with_panel(
        bars(
            "Slides called, by version",
            "Slides that got a call, by the version that made it.",
            "short",
            CALM,
            (
                f"sum by (model, version) (increase(gramserve_slides_called_total{THESE}[$__interval]))",
                "{{model}} {{version}}",
            ),
        )
    )
    page.with_panel(
        lines(
            "Share for review",
            "Share of the slides of an hour whose call a person must look at, beside that of a week.",
            "percentunit",
            ((0.25, "yellow"), (0.5, "red")),
            (f"gramserve:slides_for_review:share1h{THESE}", "{{model}} {{version}}: hour"),
            (f"gramserve:slides_for_review:share7d{THESE}", "{{model}} {{version}}: week"),
        )
    )
    page.with_panel(
        bars(
            "Reasons for review",
            "A slide can have several.",
            "short",
            CALM,
            ("sum by (reason) (increase(gramserve_review_reasons_total[$__interval]))", "{{reason}}"),
        )
    )
    page.with_panel(
        clouds(
            "Confidence",
            "Probability of the most probable finding of each slide that has one.",
            "percentunit",
            f"sum by (le) (increase(gramserve_call_confidence_bucket{THESE}[$__rate_interval]))",
        )
    )
    page.with_panel(
        lines(
            "Confidence: a tenth and half of the slides are below",
            "Quantiles of the probability of the most probable finding, over an hour.",
            "percentunit",
            CALM,
            (f"histogram_quantile(0.1, {HOUR})", "{{model}} {{version}}: p10"),
            (f"histogram_quantile(0.5, {HOUR})", "{{model}} {{version}}: p50"),
        )
    )
    page.with_row(dashboard.Row("Drift against the artifact's validation split, over a day"))
    page.with_panel(
        lines(
            "Stability index of calls",
            "Population stability index of the labels of tiles: below 0.1 as in validation, above 0.25 a large shift."
            " Says nothing below 1,000 tiles a day.",
            "short",
            SHIFT,
            (f"gramserve:tile_calls:psi24h{THESE}", "{{model}} {{version}}"),
        )
    )
    page.with_panel(
        lines(
            "Stability index of scores",
            "Population stability index of the probability of the most probable label of tiles, in ten bands.",
            "short",
            SHIFT,
            (f"gramserve:tile_scores:psi24h{THESE}", "{{model}} {{version}}"),
        )
    )
    page.with_panel(
        rows(
            "Tiles by label",
            "Shares of a day and of the validation split.",
            "percentunit",
            CALM,
            (f"sum by (label) (gramserve:tile_calls:share24h{THESE})", "today"),
            (f"sum by (label) (gramserve:tile_calls_reference:share{THESE})", "validation"),
            key="label",
        )
    )
    page.with_panel(
        rows(
            "Tiles by score",
            "Shares of a day and of the validation split; a band of 0.9 is from 0.9 to 1.",
            "percentunit",
            CALM,
            (f"sum by (band) (gramserve:tile_scores:share24h{THESE})", "today"),
            (f"sum by (band) (gramserve:tile_scores_reference:share{THESE})", "validation"),
            key="band",
        )
    )
    page.with_row(dashboard.Row("Shadow"))
    page.with_panel(
        bars(
            "Shadow beside production",
            "Slides that a shadow version ran as well, by how its call compares.",
            "short",
            CALM,
            ("sum by (verdict) (increase(gramserve_shadow_slides_total[$__interval]))", "{{verdict}}"),
        )
    )
    page.with_panel(
        number(
            "Shadow differs",
            "Share of the slides of a day, of those that both ran, that are called differently; from 50 slides on.",
            "gramserve:shadow_differs:share24h",
            "percentunit",
            ((0.02, "yellow"), (0.05, "red")),
            span=6,
        )
    )
    page.with_panel(
        count(
            "Calls reused",
            "Slides in the time shown that got the call of the same pixels, made before.",
            "sum(increase(gramserve_slides_reused_total[$__range]))",
            CALM,
            span=6,
        )
    )
    return page
