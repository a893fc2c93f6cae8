"""What a candidate answers on a split and how fast: by the engine that serves."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.engines import open_engine
from gramserve.runtime.golden import run_in_batches
from optimizer_svc.acceptance import Comparison, Rules, compare
from optimizer_svc.candidates import ENGINE, Candidate
from optimizer_svc.environment import cpu
from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency, Run, eager_run, measure
from optimizer_svc.pace import Pace
from optimizer_svc.spec import OptimizationSpec, Stage
from optimizer_svc.train import predict
from optimizer_svc.workspace import Kept, Workspace

Logits = NDArray[np.float32]
EAGER = "torch eager fp32"
LATENCY_SHARE = 0.1
LATENCY_MAX_S = 60.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate with its val logits [N, C], comparison and speed; None where it failed before."""

    candidate: Candidate
    logits: Logits | None
    comparison: Comparison | None
    latency: Latency | None

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


def try_candidates(
    candidates: Sequence[Candidate],
    reference: Logits,
    spec: OptimizationSpec,
    ingested: Ingested,
    workspace: Workspace,
    pace: Pace,
) -> tuple[list[Trial], Latency]:
    """Compares every candidate on val and times all that run, beside the checkpoint in torch eager."""
    sound = [candidate for candidate in candidates if not candidate.failure]
    logits: dict[str, Logits] = {}
    for i, candidate in enumerate(sound):
        pace.say(Stage.MEASURE, f"Reading the val tiles with {candidate.name}", 0.5 * i / len(sound))
        key = {**ingested.identity, "model": candidate.digest, "engine": candidate.engine.model_dump(mode="json")}
        logits[candidate.name] = _kept_logits(
            "answer",
            key,
            workspace,
            lambda c=candidate: answer(c, ingested.val.tiles),  # type: ignore[misc]
        )
    pace.say(Stage.MEASURE, f"Timing {len(sound)} candidates and the checkpoint on one thread", 0.5)
    latencies = _latencies(sound, spec, ingested, workspace, pace)
    rules = Rules(spec.margin, spec.recall_margin, spec.allow_unproved)
    trials = []
    for candidate in candidates:
        if candidate.failure:
            trials.append(Trial(candidate, None, None, None))
            continue
        own = logits[candidate.name]
        comparison = compare(reference.argmax(1), own.argmax(1), ingested.val.targets, spec.labels, rules)
        trials.append(Trial(candidate, own, comparison, latencies[candidate.name]))
    return trials, latencies[EAGER]


def choose(trials: Sequence[Trial]) -> Trial | None:
    """The fastest accepted candidate; among those that are as fast within the intervals, the smallest file."""
    accepted = [(trial, trial.latency) for trial in trials if trial.accepted and trial.latency is not None]
    if not accepted:
        return None
    _, fastest = min(accepted, key=lambda pair: pair[1].median_s)
    as_fast = [trial for trial, latency in accepted if latency.low_s <= fastest.high_s]
    return min(as_fast, key=lambda trial: (len(trial.candidate.model), trial.candidate.name))


def _latencies(
    sound: Sequence[Candidate], spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace
) -> dict[str, Latency]:
    def make() -> Kept:
        runs: dict[str, Run] = {EAGER: eager_run(ingested.checkpoint.model, ingested.checkpoint.input)}
        runs.update({c.name: open_engine(c.model, c.engine).run for c in sound})
        budget_s = min(LATENCY_MAX_S, LATENCY_SHARE * spec.budget_minutes * 60)
        measured = measure(
            runs,
            ingested.val.tiles,
            batch_tiles=ENGINE.batch_tiles,
            max_s=budget_s,
            seed=spec.seed,
            should_stop=pace.should_stop,
        )
        return Kept({name: [m.median_s, m.low_s, m.high_s, m.rounds] for name, m in measured.items()}, {})

    models: dict[str, Any] = {candidate.name: candidate.digest for candidate in sound}
    kept = workspace.once("latency", {**ingested.identity, "models": models, "cpu": cpu()}, make)
    return {name: Latency(*values) for name, values in kept.facts.items()}


def _kept_logits(stage: str, key: dict[str, Any], workspace: Workspace, make: Callable[[], Logits]) -> Logits:
    def kept() -> Kept:
        file = io.BytesIO()
        np.save(file, make(), allow_pickle=False)
        return Kept({}, {"logits.npy": file.getvalue()})

    data = workspace.once(stage, key, kept).files["logits.npy"]
    logits: Logits = np.load(io.BytesIO(data), allow_pickle=False)
    return logits
