"""The one look at the locked test split."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer_svc.acceptance import Comparison, Rules, compare
from optimizer_svc.candidates import FP32
from optimizer_svc.evaluate import Trial, answer
from optimizer_svc.ingest import Ingested
from optimizer_svc.networks import ORIGINAL
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.statistics import CONFIDENCE
from optimizer_svc.train import predict

LOOKS = 3


def confirm(
    shortlist: Sequence[Trial], trials: Sequence[Trial], spec: OptimizationSpec, ingested: Ingested
) -> tuple[Trial | None, Comparison | None, str]:
    """The shortlist on the locked test split: (what is taken, its comparison there, a sentence).

    The test split is read once, for candidates that were named before: the first of `shortlist` (at most LOOKS, fastest
    first) that it confirms is taken. Intervals are as much wider as there are candidates. It is no second validation
    split: when it refutes them all, no other is tried on it. What is taken then is the exported checkpoint itself, if
    val accepted that and the test split does not refute it as well.
    """
    if not shortlist:
        return None, None, ""
    if ingested.test is None:
        return shortlist[0], None, "There is no test split: the choice made on val was not confirmed on other tiles."
    tiles, looks = ingested.test.tiles, shortlist[:LOOKS]
    reference = predict(ingested.checkpoint.model, tiles, ingested.checkpoint.input).argmax(axis=1)
    confidence = 1 - (1 - CONFIDENCE) / len(looks)
    rules = Rules(spec.margin, spec.recall_margin, allow_unproved=True, confidence=confidence)

    def on_test(trial: Trial) -> Comparison:
        assert ingested.test is not None
        own = answer(trial.candidate, tiles).argmax(axis=1)
        return compare(reference, own, ingested.test.targets, spec.labels, rules)

    several = f", for {len(looks)} candidates named before" if len(looks) > 1 else ""
    notes = [f"The test split was used once{several}."]
    comparison = None
    for trial in looks:
        comparison = on_test(trial)
        if comparison.accepted:
            notes.append(f"It confirms {trial.candidate.name}.")
            return trial, comparison, " ".join(notes)
        notes.append(f"It refutes {trial.candidate.name}: {'; '.join(comparison.failures)}.")
    plain = _exported(trials)
    if plain is None or any(plain.candidate.name == trial.candidate.name for trial in looks):
        return None, comparison, " ".join(notes)
    fallback = on_test(plain)
    if not fallback.accepted:
        notes.append(f"The exported checkpoint differs there, too: {'; '.join(fallback.failures)}.")
        return None, fallback, " ".join(notes)
    return plain, fallback, " ".join([*notes, "The exported checkpoint is taken instead."])


def _exported(trials: Sequence[Trial]) -> Trial | None:
    """The checkpoint's own network in fp32 by the engine that runs it fastest, if val accepted it."""
    plain = [
        (trial.latency.median_s, place)
        for place, trial in enumerate(trials)
        if trial.accepted
        and trial.latency is not None
        and (trial.candidate.network.name, trial.candidate.recipe) == (ORIGINAL, FP32)
    ]
    return trials[min(plain)[1]] if plain else None
