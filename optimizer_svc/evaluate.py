"""What a candidate answers on a split and how fast: by the engine that serves."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.engines import open_engine
from gramserve.runtime.golden import run_in_batches
from optimizer_svc.acceptance import Comparison, Rules, compare
from optimizer_svc.candidates import Candidate
from optimizer_svc.environment import cpu
from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency, Run, eager_run, measure
from optimizer_svc.pace import Pace
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.train import predict
from optimizer_svc.workspace import Kept, Workspace

Logits = NDArray[np.float32]
EAGER = "torch eager fp32"
LATENCY_SHARE = 0.1
LATENCY_MAX_S = 60.0
AS_FAST = 1.1


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate with its val logits [N, C], comparison and speed; None where it did not come that far.

    `snr_db` and `proxy` are what the cheap looks gave; `note` says why it was dropped before validation, or is "".
    """

    candidate: Candidate
    logits: Logits | None
    comparison: Comparison | None
    latency: Latency | None
    snr_db: float | None = None
    proxy: Latency | None = None
    note: str = ""

    @property
    def accepted(self) -> bool:
        """True when it may become the artifact."""
        return self.comparison is not None and self.comparison.accepted


def baseline(ingested: Ingested, workspace: Workspace) -> Logits:
    """The val logits [N, C] of the checkpoint by torch in fp32: what every candidate is held against."""
    model, spec = ingested.checkpoint.model, ingested.checkpoint.input
    return _kept_logits("baseline", ingested.identity, workspace, lambda: predict(model, ingested.val.tiles, spec))


def answer(candidate: Candidate, tiles: NDArray[np.uint8]) -> Logits:
    """The logits [N, C] of tiles by the engine that serves, in the batches that serve."""
    return run_in_batches(open_engine(candidate.model, candidate.engine), tiles, candidate.engine.batch_tiles)


def validate(
    candidate: Candidate, reference: Logits, spec: OptimizationSpec, ingested: Ingested, workspace: Workspace
) -> tuple[Logits, Comparison]:
    """The val logits of a candidate and how they compare with the checkpoint's; accepted only where all are finite."""
    key = {**ingested.identity, **candidate.key}
    logits = _kept_logits("answer", key, workspace, lambda: answer(candidate, ingested.val.tiles))
    rules = Rules(spec.margin, spec.recall_margin, spec.allow_unproved)
    comparison = compare(reference.argmax(1), logits.argmax(1), ingested.val.targets, spec.labels, rules)
    if lost := int((~np.isfinite(logits).all(axis=1)).sum()):  # a worker fails a slide with such a tile
        reason = f"its logits are not finite on {lost} of the tiles"
        comparison = replace(comparison, failures=(*comparison.failures, reason), accepted=False, overridden=False)
    return logits, comparison


def time_all(
    candidates: Sequence[Candidate], spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace
) -> dict[str, Latency]:
    """The speed of every candidate, by name, and of the checkpoint in torch eager (EAGER), in turns in one run."""

    def make() -> Kept:
        runs: dict[str, Run] = {EAGER: eager_run(ingested.checkpoint.model, ingested.checkpoint.input)}
        runs.update({c.name: open_engine(c.model, c.engine).run for c in candidates})
        measured = measure(
            runs,
            ingested.val.tiles,
            batch_tiles=max((c.engine.batch_tiles for c in candidates), default=1),
            max_s=min(LATENCY_MAX_S, LATENCY_SHARE * spec.budget_minutes * 60),
            seed=spec.seed,
            should_stop=pace.should_stop,
        )
        return Kept({name: [m.median_s, m.low_s, m.high_s, m.rounds] for name, m in measured.items()}, {})

    models: dict[str, Any] = {candidate.name: candidate.key for candidate in candidates}
    kept = workspace.once("latency", {**ingested.identity, "models": models, "cpu": cpu()}, make)
    return {name: Latency(*values) for name, values in kept.facts.items()}


def choose(trials: Sequence[Trial]) -> Trial | None:
    """The fastest accepted candidate; among those that are as fast within the intervals, the smallest file.

    Before all were timed in one run, the quick look at their speed counts.
    """
    timed = [(trial, trial.latency or trial.proxy) for trial in trials if trial.accepted]
    accepted = [(trial, latency) for trial, latency in timed if latency is not None]
    if not accepted:
        return None
    _, fastest = min(accepted, key=lambda pair: pair[1].median_s)
    # On a busy machine intervals are wide; what is clearly slower at the median is not as fast.
    as_fast = [
        trial
        for trial, latency in accepted
        if latency.low_s <= fastest.high_s and latency.median_s <= AS_FAST * fastest.median_s
    ]
    return min(as_fast, key=lambda trial: (len(trial.candidate.model), trial.candidate.name))


def _kept_logits(stage: str, key: dict[str, Any], workspace: Workspace, make: Callable[[], Logits]) -> Logits:
    def kept() -> Kept:
        file = io.BytesIO()
        np.save(file, make(), allow_pickle=False)
        return Kept({}, {"logits.npy": file.getvalue()})

    data = workspace.once(stage, key, kept).files["logits.npy"]
    logits: Logits = np.load(io.BytesIO(data), allow_pickle=False)
    return logits
