"""The picture of docs/benchmarks.md: throughput beside other servers, and where the time of a slide goes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.tables import stage_ms

OURS, OTHERS, BARE = "#1b6ca8", "#9aa5b1", "#d9dee3"
NAMES = {
    "gramserve": "gramserve, same engine",
    "gramserve, engine chosen": "gramserve as it comes",
    "bare": "bare gRPC server",
    "kserve": "KServe",
    "mlserver": "MLServer",
    "pytriton": "PyTriton",
    "rayserve": "Ray Serve",
}
OUTSIDE = {"worker parent", "gateway", "Redis"}
"""What of a slide's time is not spent in a child."""
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "gramserve",  # the same figures give the same file
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(sections: Mapping[str, Any], path: Path) -> None:
    """Draws what `sections` have of it to an SVG file."""
    peers = sections.get("peers", {}).get("figures", {})
    slides = sections.get("end_to_end", {}).get("figures", {})
    panels = [*((callers, None) for callers in _callers(peers)), *((None, name) for name in slides)]
    if not panels:
        return
    rows = (len(panels) + 1) // 2
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 2.9 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        for axis, (callers, name) in zip(axes, panels, strict=False):
            if callers is not None:
                _throughput(axis, peers, callers)
            elif name is not None:
                _time(axis, name, slides[name])
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        figure.savefig(path, format="svg", metadata={"Date": None})


def _callers(peers: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(callers for by in peers.get("peers", {}).values() for callers in by))


def _throughput(axis: Axes, peers: Mapping[str, Any], callers: str) -> None:
    """A bar for each server with whiskers from the slowest to the fastest round."""
    rates = {name: by[callers]["images_per_s"] for name, by in peers["peers"].items() if callers in by}
    names = sorted(rates, key=lambda name: rates[name]["median"])
    medians = [rates[name]["median"] for name in names]
    whiskers = [
        [rates[name]["median"] - rates[name]["min"] for name in names],
        [rates[name]["max"] - rates[name]["median"] for name in names],
    ]
    colors = [OURS if name.startswith("gramserve") else BARE if name == "bare" else OTHERS for name in names]
    axis.barh(
        [NAMES.get(name, name) for name in names],
        medians,
        xerr=whiskers,
        color=colors,
        error_kw={"elinewidth": 0.8, "ecolor": "#444"},
    )
    for row, median in enumerate(medians):
        color = "white" if colors[row] == OURS else "black"
        axis.text(medians[-1] * 0.01, row, f"{median:.0f}", va="center", fontsize=8, color=color)
    axis.set_title(f"Inference requests: images/s, {callers} caller{'' if callers == '1' else 's'}", loc="left")


def _time(axis: Axes, name: str, one: Mapping[str, Any]) -> None:
    """A bar for each stage."""
    stages = {stage: ms for stage, ms in stage_ms(one).items() if ms > 0}
    names = list(reversed(stages))
    colors = [OTHERS if stage in OUTSIDE else OURS for stage in names]
    axis.barh(names, [stages[stage] for stage in names], color=colors)
    for row, stage in enumerate(names):
        axis.text(stages[stage], row, f" {stages[stage]:.2f}", va="center", fontsize=8)
    axis.set_title(f"Slides: ms each, {name.removesuffix(' a slide')}", loc="left")
    axis.margins(x=0.15)
