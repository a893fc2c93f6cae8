"""What happens inside the networks, layer by layer: widths after pruning, and what int8 costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optimizer_svc.plots.canvas import ACCENT, MUTED, drawing, svg

MOST_LAYERS = 20
LONGEST_NAME = 34


def sensitivity(layers: Sequence[Mapping[str, Any]]) -> str:
    """How much closer the logits come to fp32 when one layer alone is not quantized; the 20 that matter most."""
    shown = sorted(layers, key=lambda layer: -layer["snr_gain_db"])[:MOST_LAYERS]
    with drawing(7.6, 0.9 + 0.27 * len(shown)) as (figure, axes):
        gains = [layer["snr_gain_db"] for layer in shown]
        axes.barh(range(len(shown)), gains, height=0.66, color=ACCENT, alpha=0.75)
        names = [_shortened(layer["layer"]) for layer in shown]
        axes.set_yticks(range(len(shown)), names, fontsize=8.5)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.set_xlabel("gain in signal to noise of the logits when this layer stays fp32, dB")
        axes.grid(axis="x")
        return svg(figure, "Layers that lose most by quantization")


def widths(network: Mapping[str, Any]) -> str:
    """The outputs of every layer before and after pruning, from the input to the classes."""
    layers = network["layers"]
    with drawing(7.6, 2.2) as (figure, axes):
        places = range(len(layers))
        axes.bar(places, [before for _, before, _ in layers], width=0.86, color=MUTED, alpha=0.35, label="before")
        axes.bar(places, [now for _, _, now in layers], width=0.86, color=ACCENT, alpha=0.85, label="kept")
        axes.set_xlim(-0.8, len(layers) - 0.2)
        axes.set_xticks([0, len(layers) - 1], ["first layer", "last"])
        axes.set_ylabel("outputs")
        axes.set_title(network["name"], fontsize=11, loc="left")
        axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=10, borderaxespad=0)
        return svg(figure, f"Widths of the layers of {network['name']}")


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"\u2026{name[-LONGEST_NAME + 1 :]}"
