"""How the search went: the candidates, the steps to the artifact, and how pruned networks recovered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.ticker
from matplotlib.axes import Axes

from optimizer_svc.plots.canvas import ACCENT, BAD, GOOD, INK, MUTED, PAPER, drawing, log_ticks, svg

LOWEST = 0.12  # a candidate that is less accurate than the checkpoint by this is not worth a place on the scale
SMALLEST, LARGEST = 26.0, 520.0  # areas of marks in square points
HALO: Any = [mpl.patheffects.withStroke(linewidth=3, foreground=PAPER)]
CURVES = ("-", "--", "-.", ":")


def pareto(candidates: Sequence[Mapping[str, Any]], checkpoint: Mapping[str, Any]) -> str:
    """Accuracy over speed of every measured candidate, with the size of its file as the area of its mark.

    The line is the Pareto front of the accepted ones; its numbers are those of the table. A triangle at the bottom lies
    below the plot.
    """
    with drawing(7.6, 4.8) as (figure, axes):
        shown = [c for c in candidates if c["accuracy"] is not None and c["images_per_s"]]
        reference = {**checkpoint, "accepted": True, "chosen": False}
        largest = max(c["bytes"] for c in (*shown, reference))
        floor = checkpoint["accuracy"] - LOWEST
        _scale(axes, [*shown, reference], floor)
        for candidate in shown:
            if candidate["accuracy"] < floor:
                bottom = axes.get_xaxis_transform()
                axes.plot(candidate["images_per_s"], 0.02, "v", color=BAD, markersize=7, transform=bottom)
            else:
                colour = ACCENT if candidate["chosen"] else GOOD if candidate["accepted"] else BAD
                _mark(axes, candidate, colour, largest)
        _mark(axes, reference, INK, largest, marker="s")
        axes.axhline(100 * checkpoint["accuracy"], color=INK, linewidth=0.8, linestyle=":")
        _front(axes, shown)
        _note(axes, reference, "checkpoint")
        for candidate in shown:
            if candidate["chosen"]:
                ring = _area(candidate["bytes"], largest) + 130
                at = (candidate["images_per_s"], 100 * candidate["accuracy"])
                axes.scatter(*at, ring, facecolors="none", edgecolors=ACCENT, linewidths=1.8, zorder=7)
                _note(axes, candidate, "chosen", bold=True)
        for label, colour, filled in (("chosen", ACCENT, 1), ("accepted", GOOD, 1), ("not accepted", BAD, 0)):
            face = colour if filled else "none"
            axes.plot([], [], "o", color=colour, markerfacecolor=face, markersize=8, label=label, linestyle="none")
        axes.plot([], [], color=ACCENT, linewidth=1.4, label="Pareto front")
        for size in _round_sizes(largest):
            axes.scatter([], [], _area(size, largest), color=MUTED, alpha=0.5, label=f"{size / 1e6:g} MB")
        figure.legend(frameon=False, loc="outside upper center", ncols=4, fontsize=10)
        return svg(figure, "Accuracy on the validation tiles over images per second, for every candidate")


def waterfall(steps: Sequence[Mapping[str, Any]]) -> str:
    """Speed and size after every step, with the factor that the step brought."""
    with drawing(7.6, 0.95 + 0.62 * len(steps)) as (figure, axes):
        axes.remove()
        for column, (key, gain, unit, colour) in enumerate(
            (("images_per_s", "speed_gain", "images/s", ACCENT), ("bytes", "size_gain", "MB", GOOD))
        ):
            panel = figure.add_subplot(1, 2, column + 1)
            values = [step[key] / (1e6 if key == "bytes" else 1) if step[key] else None for step in steps]
            known = [value for value in values if value is not None]
            low, high = min(known) / 2.2, max(known) * 4.5
            for row, (step, value) in enumerate(zip(steps, values, strict=True)):
                if value is None:
                    panel.text(low * 1.1, row, "not measured", va="center", color=MUTED, fontsize=10)
                    continue
                panel.barh(row, value - low, left=low, height=0.6, color=colour, alpha=0.75 if row else 0.35)
                factor = (
                    "" if step[gain] is None else f" ({shrunk(step[gain]) if key == 'bytes' else _times(step[gain])})"
                )
                text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
                panel.annotate(
                    text + factor, (value, row), (5, 0), textcoords="offset points", va="center", fontsize=10
                )
            panel.set_xscale("log")
            panel.set_xlim(low, high)
            ticks = log_ticks(low, high)
            ticks = ticks[:: max(1, math.ceil(len(ticks) / 5))]
            panel.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            panel.minorticks_off()
            panel.set_ylim(len(steps) - 0.4, -0.6)
            names = [str(number) for number in range(len(steps))]
            panel.set_yticks(range(len(steps)), names if column == 0 else [""] * len(steps))
            panel.tick_params(axis="y", length=0)
            panel.set_xlabel(f"{unit}, logarithmic")
            panel.spines["left"].set_visible(False)
        return svg(figure, "Speed and size after every step from the checkpoint to the artifact")


def recovery(networks: Sequence[Mapping[str, Any]], checkpoint_accuracy: float) -> str:
    """Val accuracy of every pruned network over its epochs of distillation."""
    with drawing(7.6, 3.2) as (figure, axes):
        last = 1.0
        for i, network in enumerate(networks):
            numbers, accuracies = [e[0] for e in network["epochs"]], [100 * e[2] for e in network["epochs"]]
            colour = (ACCENT, GOOD, BAD, MUTED)[i % 4]
            style = CURVES[i // 4 % 4]
            axes.plot(numbers, accuracies, style, color=colour, marker="o", markersize=3.5, label=network["name"])
            last = max(last, *numbers)
        axes.axhline(100 * checkpoint_accuracy, color=INK, linewidth=0.8, linestyle=":")
        text = axes.text(last, 100 * checkpoint_accuracy, "checkpoint", ha="right", va="bottom", fontsize=9)
        text.set_path_effects(HALO)
        axes.set(xlabel="epoch of distillation", ylabel="accuracy on val, %")
        axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
        axes.margins(y=0.15)
        axes.grid()
        if len(networks) > 1:
            figure.legend(frameon=False, loc="outside upper center", ncols=4, fontsize=10)
        return svg(figure, "Recovery of the pruned networks by distillation")


def _scale(axes: Axes, points: Sequence[Mapping[str, Any]], floor: float) -> None:
    axes.set_xscale("log")
    speeds = [point["images_per_s"] for point in points]
    low, high = min(speeds) / 1.5, max(speeds) * 1.5
    axes.set_xlim(low, high)
    ticks = log_ticks(low, high)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    inside = [point for point in points if point["accuracy"] >= floor]
    bottom = min(100 * point["accuracy_low"] for point in inside)
    top = max(100 * point["accuracy_high"] for point in inside)
    axes.set_ylim(max(bottom - 0.5, 100 * floor), min(top + 1.5, 101.5))
    axes.set_xlabel("images per second on one thread, logarithmic")
    axes.set_ylabel("accuracy on val, %")
    times = axes.secondary_xaxis("top")
    times.set_xticks(ticks, [f"{1000 / tick:.3g}" for tick in ticks])
    times.set_xlabel("milliseconds per image", fontsize=10)
    times.minorticks_off()
    axes.grid()


def _mark(axes: Axes, point: Mapping[str, Any], colour: str, largest: float, *, marker: str = "o") -> None:
    accuracy = 100 * point["accuracy"]
    speed, order = point["images_per_s"], 5 if point["chosen"] else 3
    across = [
        [max(0.0, speed - point["images_per_s_low"])],
        [max(0.0, point["images_per_s_high"] - speed)],
    ]
    upwards = [[max(0.0, accuracy - 100 * point["accuracy_low"])], [max(0.0, 100 * point["accuracy_high"] - accuracy)]]
    axes.errorbar(speed, accuracy, xerr=across, yerr=upwards, color=colour, elinewidth=0.5, alpha=0.45, zorder=order)
    face = colour if point["accepted"] else "none"
    area = _area(point["bytes"], largest)
    axes.scatter(speed, accuracy, area, marker=marker, facecolors=face, edgecolors=colour, alpha=0.75, zorder=order + 1)


def _front(axes: Axes, shown: Sequence[Mapping[str, Any]]) -> None:
    """The front as steps: what accuracy is to be had at a speed."""
    points = sorted((c for c in shown if c["front"] is not None), key=lambda c: c["front"])
    if not points:
        return
    x, y = [p["images_per_s"] for p in points], [100 * p["accuracy"] for p in points]
    axes.step(x, y, where="post", color=ACCENT, linewidth=1.4, alpha=0.8, zorder=2)
    for point in points:
        at = (point["images_per_s"], 100 * point["accuracy"])
        text = axes.annotate(
            str(point["front"]), at, (0, -17), textcoords="offset points", ha="center", fontsize=9, zorder=7
        )
        text.set_path_effects(HALO)


def _note(axes: Axes, point: Mapping[str, Any], label: str, *, bold: bool = False) -> None:
    at = (point["images_per_s"], 100 * point["accuracy"])
    text = axes.annotate(label, at, (0, 16), textcoords="offset points", ha="center", fontsize=10, zorder=7)
    text.set_fontweight("bold" if bold else "normal")
    text.set_path_effects(HALO)


def _area(size: float, largest: float) -> float:
    return SMALLEST + (LARGEST - SMALLEST) * size / largest


def _round_sizes(largest: float) -> list[float]:
    """A small and a large file for the legend, in round megabytes."""
    power = 10.0 ** math.floor(math.log10(largest))
    top = power * max(step for step in (1, 2, 5) if step * power <= largest)
    return [top / 10, top]


def shrunk(gain: float) -> str:
    """How much smaller: a seventh is "1/7"; what grew has a factor instead."""
    return f"1/{gain:.3g}" if gain >= 1 else _times(1 / gain)


def _times(gain: float) -> str:
    return f"\u00d7{gain:.3g}"
