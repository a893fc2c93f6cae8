"""The pictures of a study: accuracy over speed, speed-ups, scales per channel against per tensor, and sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimizer_svc.plots.canvas import INK, MUTED, drawing, log_ticks, svg

# Stand-ins for the colours --c0, --c1 ... of the page, as in `canvas`.
COLOURS = tuple(f"#0a00{number:02x}" for number in range(11))
MARKERS = "osD^vP<>Xph*"
ROW_IN = 0.27  # height of one bar or mark, inches


@dataclass(frozen=True, slots=True)
class Kind:
    """A column of the study: its recipe (by a key of `Bar.values`), its name for people and its colour."""

    key: str
    title: str
    colour: str


FP32 = Kind("fp32", "fp32", MUTED)
TENSOR = Kind("tensor", "int8, per tensor", COLOURS[1])
CHANNEL = Kind("channel", "int8, per channel", COLOURS[0])
BEST = Kind("best", "int8, best bet", COLOURS[5])
KINDS = (FP32, TENSOR, CHANNEL, BEST)


@dataclass(frozen=True, slots=True)
class Group:
    """A network of an architecture with its fastest candidate of each kind (None where there is none)."""

    architecture: str
    family: str
    network: str
    pruned: bool
    checkpoint: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any] | None]

    @property
    def label(self) -> str:
        """Two lines beside an axis."""
        return f"{self.architecture}\n{self.network}"


def scatter(groups: Sequence[Group]) -> str:
    """Accuracy over speed, one panel for each recipe: colour is the family, the mark the architecture."""
    families = list(dict.fromkeys(group.family for group in groups))
    names = list(dict.fromkeys(group.architecture for group in groups))
    rows = [row for group in groups for row in group.rows.values() if row is not None]
    with drawing(7.6, 6.2 + 0.24 * -(-len(names) // 3)) as (figure, axes):
        axes.remove()
        first: Axes | None = None
        for place, kind in enumerate(KINDS):
            panel = figure.add_subplot(2, 2, place + 1, sharex=first, sharey=first)
            first = first or panel
            for group in groups:
                if (row := group.rows[kind.key]) is None:
                    continue
                colour = COLOURS[families.index(group.family) % len(COLOURS)]
                marker = MARKERS[names.index(group.architecture) % len(MARKERS)]
                face = "none" if group.pruned else colour
                low, high = (100 * abs(row[key] - row["accuracy"]) for key in ("accuracy_low", "accuracy_high"))
                at = (row["images_per_s"], 100 * row["accuracy"])
                panel.errorbar(*at, yerr=[[low], [high]], color=colour, elinewidth=0.5, alpha=0.4)
                panel.plot(*at, marker, color=colour, markerfacecolor=face, markersize=7.5)
            _log(panel, [row["images_per_s"] for row in rows])
            panel.set_title(kind.title, fontsize=11, loc="left")
            panel.grid()
            if place >= 2:
                panel.set_xlabel("images per second, one thread")
            if place % 2 == 0:
                panel.set_ylabel("accuracy on val, %")
        _legend(figure, groups, families, names)
        return svg(figure, "Accuracy on the validation tiles over images per second, for every recipe")


def speed_up(groups: Sequence[Group]) -> str:
    """How many times faster than the checkpoint in torch eager every recipe is, on its faster engine."""
    with drawing(7.6, 1.0 + ROW_IN * 3.6 * len(groups)) as (figure, axes):
        top = 1.0
        for i, group in enumerate(groups):
            for j, kind in enumerate(KINDS):
                at = i + (j - 1.5) * 0.2
                if (row := group.rows[kind.key]) is None:
                    axes.text(0.05, at, "none", va="center", fontsize=8, color=MUTED)
                    continue
                top = max(top, row["speed_up"])
                axes.barh(at, row["speed_up"], height=0.17, color=kind.colour, alpha=0.8)
                text = f" \u00d7{row['speed_up']:.1f} {row['engine']}"
                axes.text(row["speed_up"], at, text, va="center", fontsize=8)
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, top * 1.28)
        axes.set_xlabel("times as fast as the checkpoint in torch eager, one thread")
        _rows(axes, groups)
        _kinds(figure, KINDS)
        return svg(figure, "Speed-up over torch eager")


def scales(rows: Sequence[Mapping[str, Any]]) -> str:
    """Accuracy with one scale per channel minus accuracy with one per tensor, with 95 % intervals."""
    names = list(dict.fromkeys(f"{row['architecture']}\n{row['network']}" for row in rows))
    engines = list(dict.fromkeys(row["engine"] for row in rows))
    with drawing(7.6, 1.3 + ROW_IN * 2 * len(names)) as (figure, axes):
        axes.axvline(0, color=INK, linewidth=0.8, linestyle=":")
        for row in rows:
            place = engines.index(row["engine"])
            at = names.index(f"{row['architecture']}\n{row['network']}") + 0.3 * (place - (len(engines) - 1) / 2)
            difference = row["difference"]
            estimate = 100 * difference["estimate"]
            ends = [[estimate - 100 * difference["low"]], [100 * difference["high"] - estimate]]
            colour = COLOURS[(0, 2, 5)[place % 3]]
            axes.errorbar(estimate, at, xerr=ends, color=colour, marker=MARKERS[place], markersize=6, elinewidth=1.2)
        for place, engine in enumerate(engines):
            axes.plot([], [], MARKERS[place], color=COLOURS[(0, 2, 5)[place % 3]], markersize=6, label=engine)
        axes.set_yticks(range(len(names)), names, fontsize=8.5)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("\u2190 per tensor better    accuracy difference, points    per channel better \u2192")
        axes.grid(axis="x")
        figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=10)
        return svg(figure, "Accuracy of scales per channel minus per tensor")


def sizes(groups: Sequence[Group]) -> str:
    """Bytes of the checkpoint's weights and of every file, logarithmic."""
    with drawing(7.6, 1.3 + ROW_IN * 1.7 * len(groups)) as (figure, axes):
        values = []
        for i, group in enumerate(groups):
            points = [(group.checkpoint["bytes"], INK, "s")]
            points += [(row["bytes"], kind.colour, "o") for kind in KINDS if (row := group.rows[kind.key]) is not None]
            values += [size / 1e6 for size, _, _ in points]
            axes.plot([min(points)[0] / 1e6, max(points)[0] / 1e6], [i, i], color=MUTED, linewidth=0.8, alpha=0.6)
            for size, colour, marker in points:
                axes.plot(size / 1e6, i, marker, color=colour, markersize=7, alpha=0.85)
        _log(axes, values)
        axes.set_xlabel("megabytes, logarithmic")
        _rows(axes, groups)
        axes.plot([], [], "s", color=INK, markersize=7, label="checkpoint's weights")
        for kind in KINDS:
            axes.plot([], [], "o", color=kind.colour, markersize=7, label=kind.title)
        figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=10)
        return svg(figure, "Sizes of the files")


def _rows(axes: Axes, groups: Sequence[Group]) -> None:
    axes.set_yticks(range(len(groups)), [group.label for group in groups], fontsize=8.5)
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _log(axes: Axes, values: Sequence[float]) -> None:
    low, high = min(values) / 1.4, max(values) * 1.4
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = log_ticks(low, high)
    ticks = ticks[:: max(1, -(-len(ticks) // 7))]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _legend(figure: Figure, groups: Sequence[Group], families: list[str], names: list[str]) -> None:
    axes = figure.axes[0]
    for name in names:
        family = next(group.family for group in groups if group.architecture == name)
        colour = COLOURS[families.index(family) % len(COLOURS)]
        axes.plot([], [], MARKERS[names.index(name) % len(MARKERS)], color=colour, markersize=7, label=name)
    axes.plot([], [], "o", color=MUTED, markerfacecolor="none", markersize=7, label="hollow: pruned")
    figure.legend(frameon=False, loc="outside lower center", ncols=3, fontsize=9)


def _kinds(figure: Figure, kinds: Sequence[Kind]) -> None:
    axes = figure.axes[0]
    for kind in kinds:
        axes.barh(0, 0, color=kind.colour, alpha=0.8, label=kind.title)
    figure.legend(frameon=False, loc="outside upper center", ncols=4, fontsize=10)
