"""What an optimization found, as the one JSON document that report, card and headline are made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.store.manifest import Label
from optimizer_svc.acceptance import Comparison
from optimizer_svc.calibrate import Reliability
from optimizer_svc.candidates import FP32
from optimizer_svc.environment import cpu, packages
from optimizer_svc.evaluate import Logits, Trial
from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency
from optimizer_svc.networks import ORIGINAL, Network
from optimizer_svc.quantize import RECIPES
from optimizer_svc.severity import very_major_errors
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.statistics import proportion_interval

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Calibrated:
    """The chosen candidate's temperature and its reliability on val before and after."""

    temperature: float
    before: Reliability
    after: Reliability


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that a run found; `chosen` and `calibrated` are None when nothing was accepted.

    `confirmation` is the chosen candidate against the checkpoint on the locked test split, where there is one.
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
    confirmation: Comparison | None
    confirmation_note: str
    elapsed_s: float


def document(findings: Findings) -> dict[str, Any]:
    """report.json: JSON-ready, without paths, file names or pixels."""
    spec, ingested, chosen = findings.spec, findings.ingested, findings.chosen
    return {
        "format": FORMAT,
        "model": spec.model,
        "created": findings.created.isoformat(timespec="seconds"),
        "elapsed_s": round(findings.elapsed_s, 1),
        "headline": headline(findings),
        "labels": [label.model_dump(mode="json", exclude_none=True) for label in spec.labels],
        "checkpoint": _checkpoint(findings),
        "candidates": [_trial(trial, findings) for trial in findings.trials],
        "chosen": None if chosen is None else _trial(chosen, findings),
        "comparison": None if chosen is None or chosen.comparison is None else chosen.comparison.to_json(),
        "confusion": {
            "checkpoint": confusion(findings.reference, ingested.val.targets, len(spec.labels)),
            "artifact": None
            if chosen is None or chosen.logits is None
            else confusion(chosen.logits, ingested.val.targets, len(spec.labels)),
        },
        "test": None if findings.confirmation is None else findings.confirmation.to_json(),
        "test_note": findings.confirmation_note,
        "calibration": None if findings.calibrated is None else asdict(findings.calibrated),
        "pruning": {"skipped": findings.not_pruned, "networks": [_network(n) for n in findings.networks]},
        "steps": _steps(findings),
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
        "allow_unproved": findings.spec.allow_unproved,
        "tiles_val": len(findings.ingested.val),
        "checkpoint_accuracy": checkpoint["accuracy"],
        "artifact_accuracy": comparison.accuracy if comparison else None,
        "checkpoint_bytes": checkpoint["bytes"],
        "artifact_bytes": artifact_bytes,
        "size_ratio": round(checkpoint["bytes"] / artifact_bytes, 2) if artifact_bytes else None,
        "checkpoint_images_per_s": checkpoint["images_per_s"],
        "artifact_images_per_s": round(latency.images_per_s, 1) if latency else None,
        "speed_ratio": round(findings.eager.median_s / latency.median_s, 2) if latency else None,
        "very_major_errors_checkpoint": sum(checkpoint["very_major"]),
        "very_major_errors_artifact": sum(comparison.very_major_candidate) if comparison else None,
    }


def confusion(logits: Logits, targets: NDArray[np.int64], classes: int) -> list[list[int]]:
    """Counts [true][predicted]."""
    table = np.zeros((classes, classes), int)
    np.add.at(table, (targets, logits.argmax(axis=1)), 1)
    return [[int(n) for n in row] for row in table]


def why_not(trial: Trial, labels: Sequence[Label]) -> str:
    """Why a candidate is not accepted, as a sentence; "" when it is."""
    if trial.candidate.failure:
        return trial.candidate.failure
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


def _trial(trial: Trial, findings: Findings) -> dict[str, Any]:
    candidate, comparison = trial.candidate, trial.comparison
    facts: dict[str, Any] = {
        "name": candidate.name,
        "network": candidate.network.name,
        "recipe": candidate.recipe,
        "title": RECIPES[candidate.recipe].title if candidate.recipe in RECIPES else "fp32",
        "engine": candidate.engine.model_dump(mode="json"),
        "macs": candidate.network.macs,
        "parameters": candidate.network.parameters,
        "bytes": len(candidate.model) or None,
        "exporter": candidate.exporter,
        "parity": candidate.parity,
        "accepted": trial.accepted,
        "chosen": trial is findings.chosen,
        "why_not": why_not(trial, findings.spec.labels),
        "images_per_s": None,
        "accuracy": None,
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


def _network(network: Network) -> dict[str, Any]:
    return {"name": network.name, "macs": network.macs, "parameters": network.parameters, **network.facts}


def _steps(findings: Findings) -> list[dict[str, Any]]:
    """From the checkpoint to the artifact: what each step cost and gained."""
    checkpoint = _checkpoint(findings)
    steps = [{"name": "checkpoint", "what": "torch eager, fp32", **checkpoint}]
    by_name = {trial.candidate.name: trial for trial in findings.trials}
    path = [(f"{ORIGINAL} {FP32}", "exported to ONNX, run by the engine that serves")]
    chosen = findings.chosen
    if chosen is not None and chosen.candidate.network.name != ORIGINAL:
        path.append((f"{chosen.candidate.network.name} {FP32}", "channels cut, recovered by distillation"))
    if chosen is not None and chosen.candidate.recipe != FP32:
        path.append((chosen.candidate.name, f"quantized: {RECIPES[chosen.candidate.recipe].title}"))
    steps += [{"what": what, **_trial(by_name[name], findings)} for name, what in path if name in by_name]
    return [
        {key: step.get(key) for key in ("name", "what", "images_per_s", "ms", "bytes", "accuracy", "macs")}
        for step in steps
    ]


def _settings(spec: OptimizationSpec) -> dict[str, Any]:
    """How to run this again; not where the files lay."""
    facts = asdict(spec)
    for key in ("checkpoint", "data", "labels"):
        del facts[key]
    return facts
