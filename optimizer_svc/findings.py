"""What an optimization found, as the one JSON document that report, card and headline are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gramserve.store.manifest import Label
from optimizer_svc.acceptance import Comparison
from optimizer_svc.calibrate import Reliability
from optimizer_svc.candidates import engine_label
from optimizer_svc.conformal import Review
from optimizer_svc.environment import cpu, packages
from optimizer_svc.evaluate import Logits, Trial
from optimizer_svc.exhibits import errors
from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency
from optimizer_svc.networks import Network
from optimizer_svc.reproduce import command
from optimizer_svc.severity import very_major_errors
from optimizer_svc.slide_rules import SlideRules
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.statistics import proportion_interval
from optimizer_svc.steps import steps

if TYPE_CHECKING:
    from optimizer_svc.decoding import DecodeCheck
    from optimizer_svc.quantization import LayerSensitivity

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The chosen candidate's temperature and its reliability on val before and after."""

    temperature: float
    before: Reliability
    after: Reliability


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that a run found; `chosen`, `calibrated`, `review` and `slides` are None when nothing was accepted.

    `networks` begin with the original; `not_pruned` says why there is no other. `confirmation` is the chosen candidate
    against the checkpoint on the locked test split, where there is one. `sensitivity` says which layers of the chosen
    candidate lose most by int8, worst first; `decode` whether its fields may be decoded at a reduced scale.
    """

    spec: OptimizationSpec
    ingested: Ingested
    created: datetime
    networks: tuple[Network, ...]
    not_pruned: str
    reference: Logits
    eager: Latency
    trials: tuple[Trial, ...]
    chosen: Trial | None
    calibrated: Calibrated | None
    review: Review | None
    slides: SlideRules | None
    confirmation: Comparison | None
    confirmation_note: str
    sensitivity: tuple[LayerSensitivity, ...]
    decode: DecodeCheck | None
    elapsed_s: float
    peak_memory_bytes: int


def document(findings: Findings) -> dict[str, Any]:
    """report.json: JSON-ready, without paths, file names or pixels."""
    spec, ingested, chosen = findings.spec, findings.ingested, findings.chosen
    checkpoint, targets = _checkpoint(findings), ingested.val.targets
    temperature = 1.0 if findings.calibrated is None else findings.calibrated.temperature
    artifact = None if chosen is None else chosen.logits
    places = front(findings.trials)
    return {
        "format": FORMAT,
        "model": spec.model,
        "created": findings.created.isoformat(timespec="seconds"),
        "elapsed_s": round(findings.elapsed_s, 1),
        "peak_memory_bytes": findings.peak_memory_bytes,
        "headline": headline(findings),
        "labels": [label.model_dump(mode="json", exclude_none=True) for label in spec.labels],
        "checkpoint": checkpoint,
        "candidates": [_trial(trial, findings, places) for trial in findings.trials],
        "chosen": None if chosen is None else _trial(chosen, findings, places),
        "comparison": None if chosen is None or chosen.comparison is None else chosen.comparison.to_json(),
        "confusion": {
            "checkpoint": confusion(findings.reference, targets, len(spec.labels)),
            "artifact": None if artifact is None else confusion(artifact, targets, len(spec.labels)),
        },
        "errors": errors(findings.reference, artifact, temperature, ingested.splits.val, spec.labels),
        "test": None if findings.confirmation is None else findings.confirmation.to_json(),
        "test_note": findings.confirmation_note,
        "calibration": None if findings.calibrated is None else asdict(findings.calibrated),
        "review": None if findings.review is None else findings.review.to_json(),
        "slides": None if findings.slides is None else findings.slides.to_json(),
        "pruning": {"skipped": findings.not_pruned, "networks": [_network(n, findings) for n in findings.networks]},
        "steps": steps(findings.trials, findings.networks, chosen, checkpoint, findings.eager),
        "sensitivity": [asdict(layer) for layer in findings.sensitivity],
        "decode": None if findings.decode is None else asdict(findings.decode),
        "rules": {
            "margin": spec.margin,
            "recall_margin": spec.recall_margin,
            "allow_unproved": spec.allow_unproved,
        },
        "data": {
            "splits": [
                {"name": s.name, "fingerprint": s.fingerprint, "tiles": s.counts(spec.labels)}
                for s in (ingested.splits.train, ingested.splits.val, ingested.splits.test)
                if s
            ],
            "notes": list(ingested.notes),
            "preprocessing": ingested.preprocessing.model_dump(mode="json"),
        },
        "environment": {"packages": packages(), "cpu": cpu()},
        "command": command(spec),
        "settings": _settings(spec),
    }


def headline(findings: Findings) -> dict[str, Any]:
    """The figures that matter, flat; those of the artifact are None when nothing was accepted."""
    chosen, checkpoint = findings.chosen, _checkpoint(findings)
    comparison = chosen.comparison if chosen else None
    latency = chosen.latency if chosen else None
    artifact_bytes = len(chosen.candidate.model) if chosen else None
    return {
        "model": findings.spec.model,
        "architecture": findings.spec.architecture,
        "chosen": chosen.candidate.name if chosen else None,
        "accepted": chosen is not None,
        "proved": bool(comparison and comparison.proved),
        "overridden": bool(comparison and comparison.overridden),
        "allow_unproved": findings.spec.allow_unproved,
        "tiles_val": len(findings.ingested.val),
        "checkpoint_accuracy": checkpoint["accuracy"],
        "artifact_accuracy": comparison.accuracy if comparison else None,
        "checkpoint_bytes": checkpoint["bytes"],
        "artifact_bytes": artifact_bytes,
        "size_ratio": round(checkpoint["bytes"] / artifact_bytes, 2) if artifact_bytes else None,
        "checkpoint_images_per_s": checkpoint["images_per_s"],
        "artifact_images_per_s": round(latency.images_per_s, 1) if latency else None,
        "engine": engine_label(chosen.candidate.engine) if chosen else None,
        "review_probability": findings.review.overall.probability if findings.review else None,
        "speed_ratio": round(findings.eager.median_s / latency.median_s, 2) if latency else None,
        "very_major_errors_checkpoint": sum(checkpoint["very_major"]),
        "very_major_errors_artifact": sum(comparison.very_major_candidate) if comparison else None,
    }


def confusion(logits: Logits, targets: NDArray[np.int64], classes: int) -> list[list[int]]:
    """Counts [true][predicted]."""
    table = np.zeros((classes, classes), int)
    np.add.at(table, (targets, logits.argmax(axis=1)), 1)
    return [[int(n) for n in row] for row in table]


def front(trials: Sequence[Trial]) -> dict[str, int]:
    """The Pareto front: places from 1, fastest first, by the names of the candidates.

    On it are the accepted candidates that no other accepted one beats in both accuracy and speed.
    """
    able = [(trial.latency.median_s, trial) for trial in trials if trial.accepted and trial.latency is not None]
    best, places = -1.0, dict[str, int]()
    for _, trial in sorted(able, key=lambda pair: (pair[0], -_accuracy(pair[1]), len(pair[1].candidate.model))):
        if _accuracy(trial) > best:
            best = _accuracy(trial)
            places[trial.candidate.name] = len(places) + 1
    return places


def _accuracy(trial: Trial) -> float:
    return -1.0 if trial.comparison is None else trial.comparison.accuracy


def why_not(trial: Trial, labels: Sequence[Label]) -> str:
    """Why a candidate is not accepted, as a sentence; "" when it is."""
    if trial.candidate.failure or trial.note:
        return trial.candidate.failure or trial.note
    comparison = trial.comparison
    if comparison is None or comparison.accepted:
        return ""
    if comparison.failures:
        return "; ".join(comparison.failures)
    few = [label.name for label in labels if label.name in comparison.recalls]
    unproved = [name for name in few if not comparison.recalls[name].proved]
    parts = [] if comparison.difference.proved else ["accuracy"]
    parts += [f"recall of {', '.join(unproved)}"] if unproved else []
    return f"not proved with {comparison.difference.tiles} tiles: {', '.join(parts)}"


def _checkpoint(findings: Findings) -> dict[str, Any]:
    targets, checkpoint = findings.ingested.val.targets, findings.ingested.checkpoint
    predicted = findings.reference.argmax(axis=1)
    right = int((predicted == targets).sum())
    low, high = proportion_interval(right, len(targets))
    errors = very_major_errors(predicted, targets, findings.spec.labels)
    base = findings.networks[0]
    return {
        "architecture": checkpoint.architecture,
        "sha256": checkpoint.sha256,
        "parameters": base.parameters,
        "macs": base.macs,
        "bytes": checkpoint.fp32_bytes,
        "accuracy": right / len(targets),
        "accuracy_low": low,
        "accuracy_high": high,
        "very_major": [int(errors.missed.sum()), int(errors.flipped.sum())],
        **_speed(findings.eager),
    }


def _trial(trial: Trial, findings: Findings, places: dict[str, int]) -> dict[str, Any]:
    """`stage` says how far it came: FAILED (not made, or a gate), DROPPED (a cheap look, or time), VALIDATED."""
    candidate, comparison = trial.candidate, trial.comparison
    facts: dict[str, Any] = {
        "name": candidate.name,
        "network": candidate.network.name,
        "recipe": candidate.recipe,
        "title": candidate.title,
        "engine": candidate.engine.model_dump(mode="json"),
        "engine_label": engine_label(candidate.engine),
        "stage": "VALIDATED" if comparison is not None else "FAILED" if candidate.failure else "DROPPED",
        "macs": candidate.network.macs,
        "parameters": candidate.network.parameters,
        "bytes": len(candidate.model) or None,
        "exporter": candidate.exporter,
        "parity": candidate.parity,
        "accepted": trial.accepted,
        "chosen": trial is findings.chosen,
        "front": places.get(candidate.name),
        "why_not": why_not(trial, findings.spec.labels),
        "snr_db": None if trial.snr_db is None else round(trial.snr_db, 1),
        "quick_images_per_s": None if trial.proxy is None else round(trial.proxy.images_per_s, 1),
        "images_per_s": None,
        "accuracy": None,
        "very_major": None,
        "proved": False,
    }
    if trial.latency is not None:
        facts |= _speed(trial.latency)
    if comparison is not None:
        facts |= {
            "accuracy": comparison.accuracy,
            "accuracy_low": comparison.accuracy_low,
            "accuracy_high": comparison.accuracy_high,
            "difference": asdict(comparison.difference),
            "very_major": list(comparison.very_major_candidate),
            "proved": comparison.proved,
        }
    return facts


def _speed(latency: Latency) -> dict[str, Any]:
    return {
        "images_per_s": round(latency.images_per_s, 1),
        "images_per_s_low": round(1 / latency.high_s, 1),
        "images_per_s_high": round(1 / latency.low_s, 1),
        "ms": round(latency.median_s * 1000, 3),
    }


def _network(network: Network, findings: Findings) -> dict[str, Any]:
    """`layers`: [name, outputs before pruning, outputs now] of every layer, for the pruned networks."""
    facts = {"name": network.name, "macs": network.macs, "parameters": network.parameters, **network.facts}
    if network.widths:
        before, now = _outputs(findings.networks[0].model), _outputs(network.model)
        facts["layers"] = [[name, before[name], now[name]] for name in before if name in now]
    return facts


def _outputs(model: nn.Module) -> dict[str, int]:
    """The number of outputs of every convolution and linear layer, in the order of the network."""
    return {
        name: int(module.out_channels if isinstance(module, nn.Conv2d) else module.out_features)
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    }


def _settings(spec: OptimizationSpec) -> dict[str, Any]:
    """How to run this again; not where the files lay."""
    facts = asdict(spec)
    for key in ("checkpoint", "data", "labels"):
        del facts[key]
    return facts
