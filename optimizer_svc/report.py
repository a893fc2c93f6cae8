"""The report of an optimization for people: one HTML page and a short card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup, escape

from optimizer_svc import plots

FIRST_EXHIBITS = 24  # wrongly called tiles that are shown without asking for more


def render_html(report: Mapping[str, Any], pictures: Mapping[int, str] | None = None) -> bytes:
    """The self-contained report.html of a `findings.document`: no script, nothing loaded from elsewhere.

    `pictures` are data URIs of the tiles in `report["errors"]` by their place (see `exhibits.pictures`); tiles without
    one are shown as words.
    """
    shown = {"plot": _plots(report), "pictures": pictures or {}, "first": FIRST_EXHIBITS}
    return environment().get_template("report.html.j2").render(r=report, **shown).encode()


def render_card(report: Mapping[str, Any]) -> bytes:
    """The card.md of a `findings.document` with a chosen candidate: what the artifact is and is not, on one page."""
    return environment().get_template("card.md.j2").render(r=report).encode()


def _plots(report: Mapping[str, Any]) -> dict[str, Any]:
    names = [label["name"] for label in report["labels"]]
    tables = report["confusion"]
    pruned = [network for network in report["pruning"]["networks"] if network.get("epochs")]
    cut = [network for network in report["pruning"]["networks"] if network.get("layers")]
    drawn: dict[str, Any] = {
        "pareto": plots.pareto(report["candidates"], report["checkpoint"]),
        "waterfall": plots.waterfall(report["steps"]),
        "confusion_checkpoint": plots.confusion(tables["checkpoint"], names, "checkpoint, fp32"),
        "widths": [plots.widths(network) for network in cut],
    }
    if tables["artifact"] is not None:
        recipe = report["chosen"]["recipe"]
        kind = "fp32" if recipe == "fp32" else "int8"
        drawn["confusion_artifact"] = plots.confusion(tables["artifact"], names, f"artifact, {kind}")
    if report["calibration"] is not None:
        drawn["reliability"] = plots.reliability(report["calibration"])
    if report["review"] is not None:
        drawn["review"] = plots.review(report["review"])
    if report["sensitivity"]:
        drawn["sensitivity"] = plots.sensitivity(report["sensitivity"])
    if pruned:
        drawn["recovery"] = plots.recovery(pruned, report["checkpoint"]["accuracy"])
    return drawn


def environment() -> Environment:
    """The templates of this package, with the filters that write figures for people."""
    environment = Environment(
        loader=PackageLoader("optimizer_svc"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, points=_points, size=_size, number=_number)
    environment.filters.update(breakable=_breakable, shrunk=plots.shrunk)
    return environment


def _percent(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.1%}"


def _points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return "0.0" if abs(value) < 0.0005 else f"{100 * value:+.1f}".replace("-", "\u2212")


def _size(value: float | None) -> str:
    if value is None:
        return "\u2013"
    if value >= 1e9:
        return f"{value / 1e9:.1f} GB"
    return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def _number(value: float | None) -> str:
    """Three significant digits or a whole number, with thin spaces between thousands."""
    if value is None:
        return "\u2013"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace(",", "\u202f")


def _breakable(name: str) -> Markup:
    """A label that may be broken after its underscores, and nowhere else."""
    return Markup("_<wbr>").join(escape(part) for part in name.split("_"))
