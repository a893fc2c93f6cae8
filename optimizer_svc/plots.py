"""The report's plots as inline SVG whose colours follow the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.patches
import matplotlib.ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Stand-in colours that the page replaces by its own; matplotlib knows no CSS variables.
INK, MUTED, GOOD, BAD, ACCENT, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
CSS = {INK: "--ink", MUTED: "--muted", GOOD: "--good", BAD: "--bad", ACCENT: "--accent", PAPER: "--paper"}
LOWEST = 0.12  # a candidate that is less accurate than the checkpoint by this is not worth a place on the scale
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


def pareto(candidates: Sequence[Mapping[str, Any]], checkpoint: Mapping[str, Any]) -> str:
    """Accuracy over speed of every candidate; up and right is better, a triangle at the bottom lies below the plot."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(7.6, 4.2)
        shown = [c for c in candidates if c["accuracy"] is not None and c["images_per_s"]]
        floor = checkpoint["accuracy"] - LOWEST
        for candidate in shown:
            if candidate["accuracy"] < floor:
                axes.plot(candidate["images_per_s"], 100 * floor, "v", color=BAD, markersize=8, clip_on=False)
            else:
                _point(axes, candidate)
        _point(axes, {**checkpoint, "accepted": True, "chosen": False}, marker="s", colour=INK)
        axes.axhline(100 * checkpoint["accuracy"], color=INK, linewidth=0.8, linestyle=":")
        axes.set_xscale("log")
        speeds = [c["images_per_s"] for c in (*shown, checkpoint)]
        axes.set_xlim(min(speeds) / 1.3, max(speeds) * 1.3)
        ticks = _log_ticks(min(speeds) / 1.3, max(speeds) * 1.3)
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(bottom=max(axes.get_ylim()[0], 100 * floor), top=min(axes.get_ylim()[1], 101))
        axes.set_xlabel("images per second on one thread")
        axes.set_ylabel("accuracy on val, %")
        axes.grid()
        for label, marker, colour, filled in (
            ("checkpoint", "s", INK, True),
            ("chosen", "*", ACCENT, True),
            ("accepted", "o", GOOD, True),
            ("not accepted", "o", BAD, False),
        ):
            face = colour if filled else "none"
            axes.plot([], [], marker, color=colour, markerfacecolor=face, markersize=9, label=label, linestyle="none")
        figure.legend(frameon=False, loc="outside upper center", ncols=4)
        return _svg(figure, "Accuracy on the validation tiles over images per second, for every candidate")


def confusion(table: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> str:
    """A confusion matrix: rows are the truth, columns the prediction; colour is the share of the row."""
    with mpl.rc_context(STYLE):
        side = max(3.4, 0.62 * len(labels) + 1.6)
        figure, axes = _figure(side, side)
        for i, row in enumerate(table):
            total = max(1, sum(row))
            for j, count in enumerate(row):
                if count:
                    # A rare error must be seen, too.
                    colour, alpha = (GOOD, 0.7 * count / total) if i == j else (BAD, 0.25 + 0.6 * count / total)
                    box = (j - 0.47, i - 0.47)
                    axes.add_patch(mpl.patches.Rectangle(box, 0.94, 0.94, facecolor=colour, alpha=alpha, linewidth=0))
                    weight = "normal" if i == j else "bold"
                    axes.text(j, i, str(count), ha="center", va="center", fontweight=weight)
        axes.set(xlim=(-0.5, len(labels) - 0.5), ylim=(len(labels) - 0.5, -0.5), aspect="equal")
        short = [label.replace("_", "\n") for label in labels]
        axes.set_xticks(range(len(labels)), short, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(labels)), short, fontsize=8)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title, fontsize=11)
        return _svg(figure, f"Confusion matrix: {title}")


def reliability(calibration: Mapping[str, Any]) -> str:
    """Accuracy over stated probability, before and after temperature scaling; the diagonal is honest."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(4.6, 4.2)
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=":")
        for key, colour, marker in (("before", BAD, "o"), ("after", ACCENT, "D")):
            part = calibration[key]
            bins = part["bins"]
            sizes = [12 + 240 * b["tiles"] / max(1, sum(x["tiles"] for x in bins)) for b in bins]
            x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            axes.scatter(x, y, sizes, color=colour, marker=marker, label=f"{key}: ECE {part['ece']:.3f}", alpha=0.85)
        axes.set(xlim=(0, 1.03), ylim=(0, 1.05), xlabel="stated probability", ylabel="share that was right")
        axes.grid()
        legend = axes.legend(frameon=False, loc="lower right")
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_sizes([50])  # type: ignore[attr-defined]
        return _svg(figure, "Reliability diagram before and after calibration")


def recovery(epochs: Sequence[Sequence[float]], checkpoint_accuracy: float) -> str:
    """Val accuracy of the pruned network over the epochs of distillation."""
    with mpl.rc_context(STYLE):
        figure, axes = _figure(7.6, 2.8)
        numbers, accuracies = [e[0] for e in epochs], [100 * e[2] for e in epochs]
        axes.plot(numbers, accuracies, color=ACCENT, marker="o", markersize=4)
        axes.axhline(100 * checkpoint_accuracy, color=INK, linewidth=0.8, linestyle=":")
        axes.text(numbers[-1], 100 * checkpoint_accuracy, "checkpoint", ha="right", va="bottom", fontsize=9)
        axes.set(xlabel="epoch of distillation", ylabel="accuracy on val, %")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.margins(y=0.15)
        axes.grid()
        return _svg(figure, "Recovery of the pruned network by distillation")


def _point(axes: Axes, point: Mapping[str, Any], *, marker: str = "o", colour: str = "") -> None:
    colour = colour or (ACCENT if point["chosen"] else GOOD if point["accepted"] else BAD)
    marker, size = ("*", 15) if point["chosen"] else (marker, 8)
    accuracy = 100 * point["accuracy"]
    axes.errorbar(
        point["images_per_s"],
        accuracy,
        xerr=[
            [max(0.0, point["images_per_s"] - point["images_per_s_low"])],
            [max(0.0, point["images_per_s_high"] - point["images_per_s"])],
        ],
        yerr=[[accuracy - 100 * point["accuracy_low"]], [100 * point["accuracy_high"] - accuracy]],
        color=colour,
        marker=marker,
        markersize=size,
        markerfacecolor=colour if point["accepted"] else "none",
        elinewidth=0.6,
        zorder=4 if point["chosen"] else 3,
    )


def _log_ticks(low: float, high: float) -> list[float]:
    steps = [m * 10.0**e for e in range(-2, 6) for m in (1, 2, 5)]
    return [tick for tick in steps if low <= tick <= high]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure, figure.add_subplot()


def _svg(figure: Figure, title: str) -> str:
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
