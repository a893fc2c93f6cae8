"""Figures without a colour of their own, and their way into the page."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-in colours that the page replaces by its own; matplotlib knows no CSS variables.
INK, MUTED, GOOD, BAD, ACCENT, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
CSS = {INK: "--ink", MUTED: "--muted", GOOD: "--good", BAD: "--bad", ACCENT: "--accent", PAPER: "--paper"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gramserve",
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": MUTED,
    "grid.alpha": 0.25,
}


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`."""
    steps = [m * 10.0**e for e in range(-2, 6) for m in (1, 2, 5)]
    return [tick for tick in steps if low <= tick <= high]


@contextmanager
def drawing(width: float, height: float) -> Iterator[tuple[Figure, Axes]]:
    """A transparent figure of so many inches with its axes, in the style of the report."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        figure.patch.set_alpha(0)
        yield figure, figure.add_subplot()


def svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element that scales, names itself and takes its colours from the page."""
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    for colour, variable in CSS.items():
        text = text.replace(colour, f"var({variable})")
    # Text without a colour of its own is black by default.
    text = text.replace("<svg ", f'<svg role="img" aria-label="{title}" fill="var(--ink)" ', 1)
    # Ids of one plot must not be those of another on the same page.
    prefix = re.sub(r"\W+", "-", title.lower())[:40]
    return re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}-", text)
