"""How good the answers are: confusions, honest probabilities, and what is sent to review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.patches

from optimizer_svc.plots.canvas import ACCENT, BAD, GOOD, MUTED, drawing, svg


def confusion(table: Sequence[Sequence[int]], labels: Sequence[str], title: str) -> str:
    """A confusion matrix: rows are the truth, columns the prediction; colour is the share of the row."""
    side = max(3.4, 0.62 * len(labels) + 1.6)
    with drawing(side, side) as (figure, axes):
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
        return svg(figure, f"Confusion matrix: {title}")


def reliability(calibration: Mapping[str, Any]) -> str:
    """Accuracy over stated probability, before and after temperature scaling; the diagonal is honest."""
    with drawing(4.6, 4.2) as (figure, axes):
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
        return svg(figure, "Reliability diagram before and after calibration")


def review(found: Mapping[str, Any]) -> str:
    """Wrong calls that pass without review over the share of tiles sent to a person, from few to all."""
    with drawing(4.6, 4.2) as (figure, axes):
        points = found["curve"]
        shares = [100 * p["reviewed"] for p in points]
        lines = (
            ("risk", ACCENT, "-", "all errors", found["allowed"]),
            ("very_major_risk", BAD, "--", "very major errors", found["very_major_allowed"]),
        )
        for key, colour, style, label, allowed in lines:
            axes.step(shares, [100 * p[key] for p in points], style, where="post", color=colour, label=label)
            axes.axhline(100 * allowed, color=colour, linewidth=0.8, linestyle=":")
        overall = found["overall"]
        axes.axvline(100 * overall["reviewed"], color=MUTED, linewidth=0.8)
        axes.plot(100 * overall["reviewed"], 100 * overall["risk"], "o", color=ACCENT, markersize=9)
        top = 100 * max(found["allowed"], *(p["risk"] for p in points))
        axes.set(xlim=(-1, max(20.0, 200 * overall["reviewed"]) + 1), ylim=(-0.04 * top, 1.12 * top))
        axes.set_xlabel("tiles that go to a person, %")
        axes.set_ylabel("tiles wrong and not reviewed, %")
        axes.grid()
        axes.legend(frameon=False, loc="upper right")
        return svg(figure, "Unreviewed errors over the share of tiles for review")
