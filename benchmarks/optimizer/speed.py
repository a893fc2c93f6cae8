"""Speed and size of optimized networks beside torch eager fp32, one thread, all of an architecture in turns in one run.

Networks have random weights and pruned ones are not recovered: neither speed nor size depends on the numbers in them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from gramserve import samples
from gramserve.runtime.engines import engine_options, open_engine
from optimizer_svc.architecture import build_model, default_input
from optimizer_svc.export import export
from optimizer_svc.families import family_of
from optimizer_svc.gates import failed_gate
from optimizer_svc.latency import Latency, Run, eager_run, measure
from optimizer_svc.prune import count, prune
from optimizer_svc.quantization import RECIPES, CannotQuantize, quantize

EAGER = "torch eager fp32"
FP32 = "fp32"
# Bias correction costs minutes and no speed: its recipes give the same layers as these. Which is fastest is measured.
RECIPES_TIMED = {
    True: ("nncf_smooth", "int8_channel_core"),
    False: ("nncf_wide", "int8_channel_wide", "int8_channel_core"),
}
CALIBRATION_TILES = 40


@dataclass(frozen=True, slots=True)
class Subject:
    """An architecture with the shares of multiply-accumulates that its networks keep; 1.0 is the unpruned one."""

    architecture: str
    keep_macs: tuple[float, ...]
    input_px: int = 224


# 24 % of the work of deit_tiny is left with an embedding of 96, one head of 64 and an MLP of 384;
# 20 % is a little less. 8 % is what real tiles left of mobilenetv2_100.
SUBJECTS = (
    Subject("deit_tiny_patch16_224", (1.0, 0.24, 0.2)),
    Subject("resnet50", (1.0,)),
    Subject("mobilenetv2_100", (1.0, 0.16, 0.08)),
)
SMALL_SUBJECTS = (Subject("test_vit", (1.0, 0.5), 160), Subject("test_resnet", (1.0, 0.5), 64))


def run(
    subjects: Sequence[Subject], rounds: int, max_s: float, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """The figures of every architecture by its name."""
    return {subject.architecture: _subject(subject, rounds, max_s, say) for subject in subjects}


def _subject(subject: Subject, rounds: int, max_s: float, say: Callable[[str], None]) -> dict[str, Any]:
    architecture, px = subject.architecture, subject.input_px
    spec = default_input(architecture)
    torch.manual_seed(0)
    model = build_model(architecture, len(samples.LABELS), px).eval()
    tiles = np.stack([samples.Sample(label, i, px, px).render() for i in range(8) for label in samples.LABELS])
    runs: dict[str, Run] = {EAGER: eager_run(model, spec)}
    macs, parameters = count(model, px)
    networks: list[dict[str, Any]] = []
    for keep_macs in subject.keep_macs:
        say(f"{architecture}: making the network with {keep_macs:.0%} of the work")
        network, kept = model, (macs, parameters)
        if keep_macs < 1:
            pruned = prune(model, architecture, px, keep_macs)
            network, kept = pruned.model, (pruned.macs, pruned.parameters)
        files = dict(_files(network, architecture, tiles, say))
        rows = []
        for recipe, data in files.items():
            for options in engine_options():
                if options.settings:
                    continue
                row: dict[str, Any] = {
                    "recipe": recipe,
                    "engine": options.name,
                    "bytes": len(data),
                    "run": f"{keep_macs} {recipe} {options.name}",
                }
                row["failure"] = failed_gate(data, options, tiles, len(samples.LABELS))
                if not row["failure"]:
                    runs[row["run"]] = open_engine(data, options).run
                rows.append(row)
        networks.append({"keep_macs": keep_macs, "macs": kept[0], "parameters": kept[1], "rows": rows})
    say(f"{architecture}: timing {len(runs)} in turns")
    timed = measure(runs, tiles, batch_tiles=4, rounds=rounds, max_s=max_s)
    for network_figures in networks:
        for row in network_figures["rows"]:
            if speed := timed.get(row.pop("run")):
                row |= {**_speed(speed), "speed_ratio": round(timed[EAGER].median_s / speed.median_s, 2)}
                row["size_ratio"] = round(4 * parameters / row["bytes"], 2)
    return {
        "weights": "random; the pruned networks are not recovered",
        "input_px": px,
        "macs": macs,
        "parameters": parameters,
        "fp32_weight_bytes": 4 * parameters,
        "torch_eager": {**_speed(timed[EAGER]), "rounds": timed[EAGER].rounds},
        "networks": networks,
    }


def _files(
    network: nn.Module, architecture: str, tiles: NDArray[np.uint8], say: Callable[[str], None]
) -> Iterator[tuple[str, bytes]]:
    """The network in fp32 and by every recipe that works on it: (name, ONNX file)."""
    fp32 = export(network, default_input(architecture), tiles).model
    yield FP32, fp32
    transformer = family_of(network, architecture).transformer
    for recipe in RECIPES_TIMED[transformer]:
        say(f"{architecture}: quantizing by {recipe}")
        try:
            yield recipe, quantize(fp32, RECIPES[recipe], tiles[:CALIBRATION_TILES], transformer=transformer)
        except CannotQuantize as reason:
            say(f"{architecture}: {reason}")


def _speed(latency: Latency) -> dict[str, float]:
    return {
        "images_per_s": round(latency.images_per_s, 2),
        "images_per_s_low": round(1 / latency.high_s, 2),
        "images_per_s_high": round(1 / latency.low_s, 2),
    }


def best(networks: Sequence[dict[str, Any]], keep_macs: float, engine: str = "") -> dict[str, Any] | None:
    """The fastest int8 row of a network, on one engine or on any."""
    rows = [
        row
        for network in networks
        if network["keep_macs"] == keep_macs
        for row in network["rows"]
        if row["recipe"] != FP32 and not row["failure"] and engine in {"", row["engine"]}
    ]
    return max(rows, key=lambda row: row["images_per_s"], default=None)
