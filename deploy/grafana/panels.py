"""The few kinds of panels that the dashboards are made of, each with a unit, a description and thresholds.

A threshold is (value, color): from that value on the panel has the color; below the first one it is green. A query is
(PromQL, legend), where the legend may name labels as {{label}}.
"""

from __future__ import annotations

from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

Query = tuple[str, str]
Thresholds = Sequence[tuple[float, str]]
Panel = Builder[models.Panel]

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${source}")
CALM: Thresholds = ()
ANY_IS_BAD: Thresholds = ((1, "red"),)


def number(title: str, description: str, expr: str, unit: str, thresholds: Thresholds, *, span: int = 3) -> Panel:
    """One number of now, colored."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_now(expr, "", "A"))
        .unit(unit)
        .no_value("-")
        .thresholds(_steps(thresholds))
        .color_mode(kinds.BigValueColorMode.BACKGROUND if thresholds else kinds.BigValueColorMode.VALUE)
        .graph_mode(kinds.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .height(4)
        .span(span)
    )


def count(title: str, description: str, expr: str, thresholds: Thresholds, *, span: int = 3) -> Panel:
    """How many in the time shown: a whole number, though Prometheus extrapolates to the edges of that time."""
    return number(title, description, f"round({expr})", "short", thresholds, span=span)


def lines(
    title: str,
    description: str,
    unit: str,
    thresholds: Thresholds,
    *queries: Query,
    span: int = 12,
    stacked: bool = False,
) -> Panel:
    """Lines over time, stacked on each other where they are parts of a whole; thresholds are drawn dashed."""
    panel = _over_time(title, description, unit, thresholds, queries, span)
    panel.fill_opacity(25 if stacked else 8)
    return panel.stacking(_stacked()) if stacked else panel


def bars(
    title: str,
    description: str,
    unit: str,
    thresholds: Thresholds,
    *queries: Query,
    span: int = 12,
    interval: str = "15m",
) -> Panel:
    """Stacked bars, each for one `interval` (which the queries name as $__interval)."""
    panel = _over_time(title, description, unit, thresholds, queries, span)
    return (
        panel.draw_style(kinds.GraphDrawStyle.BARS)
        .fill_opacity(80)
        .line_width(0)
        .stacking(_stacked())
        .interval(interval)
    )


def rows(
    title: str,
    description: str,
    unit: str,
    thresholds: Thresholds,
    *queries: Query,
    span: int = 12,
    units: dict[str, str] | None = None,
    key: str = "",
) -> Panel:
    """A table of now, where the legend of a query names its column, and `units` gives columns units of their own.

    Several queries become columns of the rows with the same `key` label.
    """
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .no_value("none")
        .thresholds(_steps(thresholds))
        .height(8)
        .span(span)
    )
    names = [f"Value #{_ref(n)}" if len(queries) > 1 else "Value" for n in range(len(queries))]
    for n, (expr, legend) in enumerate(queries):
        panel.with_target(_now(expr, legend, _ref(n)).format(PromQueryFormat.TABLE))
    if key:
        panel.with_transformation(_transformed("joinByField", {"byField": key, "mode": "outer"}))
    hidden = dict.fromkeys(("Time", *(f"Time {n + 1}" for n in range(len(queries)))), True)
    renamed = {name: legend for name, (_, legend) in zip(names, queries, strict=True)}
    panel.with_transformation(_transformed("organize", {"excludeByName": hidden, "renameByName": renamed}))
    for column, own in (units or {}).items():
        panel.override_by_name(column, [models.DynamicConfigValue("unit", own)])
    return panel


def clouds(title: str, description: str, unit: str, expr: str, *, span: int = 12) -> Panel:
    """A heat map of a histogram: `expr` gives its buckets by `le`."""
    return (
        heatmap.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_query(expr, "{{le}}", "A").format(PromQueryFormat.HEATMAP).range())
        .unit(unit)
        .thresholds(_steps(CALM))
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .height(8)
        .span(span)
    )


def board(title: str, uid: str, description: str, since: str) -> dashboard.Dashboard:
    """An empty dashboard that shows the time from `since` until now, with links to the others and alerts as marks."""
    alerts = (
        dashboard.AnnotationQuery()
        .name("Critical alerts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("red")
        .expr('ALERTS{system="gramserve", alertstate="firing", severity="critical"}')
    )
    return (
        dashboard.Dashboard(f"gramserve: {title}")
        .uid(uid)
        .description(description)
        .tags(["gramserve"])
        .readonly()
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time(since, "now")
        .with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
        .link(
            dashboard.DashboardLink("gramserve")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["gramserve"])
            .include_vars(False)
            .keep_time(True)
        )
        .annotation(alerts)
    )


def choice(name: str, label: str, metric: str) -> dashboard.QueryVariable:
    """A variable with the values that the label `name` has in `metric`; all of them to begin with."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(f"label_values({metric}, {name})")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _over_time(
    title: str, description: str, unit: str, thresholds: Thresholds, queries: Sequence[Query], span: int
) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .axis_soft_min(0)
        .thresholds(_steps(thresholds))
        .show_points(kinds.VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(kinds.LegendDisplayMode.LIST)
            .placement(kinds.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI).sort(kinds.SortOrder.DESCENDING))
        .height(8)
        .span(span)
    )
    if thresholds:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED))
    for n, (expr, legend) in enumerate(queries):
        panel.with_target(_query(expr, legend, _ref(n)).range())
    return panel


def _transformed(name: str, options: dict[str, object]) -> models.DataTransformerConfig:
    return models.DataTransformerConfig(name, options=options)


def _stacked() -> common.StackingConfig:
    return common.StackingConfig().mode(kinds.StackingMode.NORMAL)


def _now(expr: str, legend: str, ref: str) -> prometheus.Dataquery:
    return _query(expr, legend, ref).instant()


def _query(expr: str, legend: str, ref: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().expr(expr).ref_id(ref)
    return query.legend_format(legend) if legend else query


def _ref(n: int) -> str:
    return chr(ord("A") + n)


def _steps(thresholds: Thresholds) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="green")]
    steps += [models.Threshold(value=value, color=color) for value, color in thresholds]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)
