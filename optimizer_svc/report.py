"""The report of an optimization for people: one HTML page and a short card."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from optimizer_svc import plots


def render_html(report: Mapping[str, Any]) -> bytes:
    """The self-contained report.html of a `findings.document`: no script, nothing loaded from elsewhere."""
    return _environment().get_template("report.html.j2").render(r=report, plot=_plots(report)).encode()


def render_card(report: Mapping[str, Any]) -> bytes:
    """The card.md of a `findings.document` with a chosen candidate: what the artifact is and is not, on one page."""
    return _environment().get_template("card.md.j2").render(r=report).encode()


def _plots(report: Mapping[str, Any]) -> dict[str, str]:
    names = [label["name"] for label in report["labels"]]
    tables = report["confusion"]
    drawn = {
        "pareto": plots.pareto(report["candidates"], report["checkpoint"]),
        "confusion_checkpoint": plots.confusion(tables["checkpoint"], names, "checkpoint, fp32"),
    }
    if tables["artifact"] is not None:
        drawn["confusion_artifact"] = plots.confusion(tables["artifact"], names, "artifact")
    if report["calibration"] is not None:
        drawn["reliability"] = plots.reliability(report["calibration"])
    epochs = [e for network in report["pruning"]["networks"] for e in network.get("epochs", [])]
    if epochs:
        drawn["recovery"] = plots.recovery(epochs, report["checkpoint"]["accuracy"])
    return drawn


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("optimizer_svc"),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, points=_points, size=_size, number=_number)
    return environment


def _percent(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.1%}"


def _points(value: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return "0.0" if abs(value) < 0.0005 else f"{100 * value:+.1f}".replace("-", "\u2212")


def _size(value: float | None) -> str:
    if value is None:
        return "\u2013"
    return f"{value / 1e6:.2f} MB" if value >= 1e5 else f"{value / 1e3:.1f} kB"


def _number(value: float | None) -> str:
    """Three significant digits or a whole number, with thin spaces between thousands."""
    if value is None:
        return "\u2013"
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace(",", "\u202f")
