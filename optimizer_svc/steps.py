"""What each step from the checkpoint to the artifact cost and gained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optimizer_svc.candidates import FP32, Candidate, engine_label
from optimizer_svc.evaluate import Trial
from optimizer_svc.latency import Latency
from optimizer_svc.networks import ORIGINAL, Network

# The engine that every step is shown on until the last: it is always there.
FIRST_ENGINE = "onnxruntime"


def steps(
    trials: Sequence[Trial],
    networks: Sequence[Network],
    chosen: Trial | None,
    checkpoint: dict[str, Any],
    eager: Latency,
) -> list[dict[str, Any]]:
    """Rows from the checkpoint in torch to the chosen candidate (to the plain export where there is none), JSON-ready.

    Export, every pruning step, quantization and change of engine follow each other; `speed_gain` and `size_gain` are
    the factors against the row before, None where nothing was measured. Speeds of steps that were dropped early are
    those of the quick look at them (`quick`).
    """
    rows = [
        {
            "name": "checkpoint",
            "what": "torch eager, fp32",
            "images_per_s": round(eager.images_per_s, 1),
            "ms": round(eager.median_s * 1000, 3),
            "quick": False,
            "bytes": checkpoint["bytes"],
            "accuracy": checkpoint["accuracy"],
            "macs": checkpoint["macs"],
        }
    ]
    rows += [_row(what, trial) for what, trial in _path(trials, networks, chosen)]
    previous = dict.fromkeys(("images_per_s", "bytes"))
    for row in rows:
        row["speed_gain"] = _factor(row["images_per_s"], previous["images_per_s"])
        row["size_gain"] = _factor(previous["bytes"], row["bytes"])
        previous |= {key: row[key] for key in previous if row[key] is not None}
    return rows


def ancestry(network: Network, networks: Sequence[Network]) -> list[Network]:
    """The networks from the original to `network`, each made from the one before."""
    by_name = {known.name: known for known in networks}
    line = [network]
    while line[0].name != ORIGINAL:
        parent = by_name.get(str(line[0].facts.get("parent", ORIGINAL))) or by_name[ORIGINAL]
        if parent in line:
            break
        line.insert(0, parent)
    return line


def _path(trials: Sequence[Trial], networks: Sequence[Network], chosen: Trial | None) -> list[tuple[str, Trial]]:
    """The trials that stand for the steps, with what each step did; those that were never made are left out."""
    last = networks[0] if chosen is None else chosen.candidate.network
    found: list[tuple[str, Trial]] = []
    for network in ancestry(last, networks):
        trial = _best(trials, network.name, FP32)
        if trial is not None:
            found.append((_made(network, trial.candidate), trial))
    if chosen is None:
        return found
    candidate = chosen.candidate
    if candidate.recipe != FP32:
        first = _best(trials, candidate.network.name, candidate.recipe) or chosen
        found.append((f"quantized: {candidate.title}, on {engine_label(first.candidate.engine)}", first))
    if found and found[-1][1].candidate is not candidate:
        found.append((f"run by {engine_label(candidate.engine)}", chosen))
    return found


def _best(trials: Sequence[Trial], network: str, recipe: str) -> Trial | None:
    """The trial of a network and recipe on the first engine, or on any, that was measured best."""
    made = [
        trial
        for trial in trials
        if (trial.candidate.network.name, trial.candidate.recipe) == (network, recipe) and trial.candidate.model
    ]
    return min(
        made,
        key=lambda t: (t.candidate.engine.name != FIRST_ENGINE, bool(t.candidate.engine.settings), t.latency is None),
        default=None,
    )


def _made(network: Network, candidate: Candidate) -> str:
    if network.name == ORIGINAL:
        return f"exported to ONNX, on {engine_label(candidate.engine)}"
    how = "trained with rounded weights" if network.facts.get("quantization_aware") else "channels cut"
    return f"{how}, recovered by distillation"


def _row(what: str, trial: Trial) -> dict[str, Any]:
    candidate, speed = trial.candidate, trial.latency or trial.proxy
    return {
        "name": candidate.name,
        "what": what,
        "images_per_s": None if speed is None else round(speed.images_per_s, 1),
        "ms": None if speed is None else round(speed.median_s * 1000, 3),
        "quick": speed is not None and trial.latency is None,
        "bytes": len(candidate.model) or None,
        "accuracy": None if trial.comparison is None else trial.comparison.accuracy,
        "macs": candidate.network.macs,
    }


def _factor(now: float | None, before: float | None) -> float | None:
    return round(now / before, 2) if now and before else None
