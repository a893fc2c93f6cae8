"""The one look at the locked test split."""

from __future__ import annotations

from collections.abc import Sequence

from optimizer_svc.acceptance import Comparison, Rules, compare
from optimizer_svc.candidates import FP32
from optimizer_svc.evaluate import Trial, answer
from optimizer_svc.ingest import Ingested
from optimizer_svc.networks import ORIGINAL
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.train import predict


def confirm(
    chosen: Trial | None, trials: Sequence[Trial], spec: OptimizationSpec, ingested: Ingested
) -> tuple[Trial | None, Comparison | None, str]:
    """The chosen candidate once on the locked test split: (what is taken, its comparison there, a sentence).

    The test split is no second validation split: when it refutes the choice, the next best is not tried on it. What is
    taken then is the exported checkpoint itself, if val accepted that.
    """
    if chosen is None:
        return None, None, ""
    if ingested.test is None:
        return chosen, None, "There is no test split: the choice made on val was not confirmed on other tiles."
    tiles = ingested.test.tiles
    reference = predict(ingested.checkpoint.model, tiles, ingested.checkpoint.input).argmax(axis=1)
    rules = Rules(spec.margin, spec.recall_margin, allow_unproved=True)

    def on_test(trial: Trial) -> Comparison:
        assert ingested.test is not None
        own = answer(trial.candidate, tiles).argmax(axis=1)
        return compare(reference, own, ingested.test.targets, spec.labels, rules)

    comparison = on_test(chosen)
    if comparison.accepted:
        return chosen, comparison, "The test split, used once, confirms the choice."
    plain = next((t for t in trials if t.candidate.name == f"{ORIGINAL} {FP32}" and t.accepted), None)
    note = f"The test split refutes {chosen.candidate.name}: {'; '.join(comparison.failures)}."
    if plain is None or plain is chosen:
        return None, comparison, note
    return plain, on_test(plain), f"{note} The exported checkpoint is taken instead."
