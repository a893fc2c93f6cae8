"""Repairs of a network that int8 broke, on a tiny network and a search that finds fault with plain int8."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gramserve.runtime.engines import engine_options
from optimizer_svc.evaluate import Trial, baseline
from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.ingest import Ingested, ingest
from optimizer_svc.ladder import Ladder
from optimizer_svc.networks import Network, original
from optimizer_svc.pace import Pace
from optimizer_svc.proxies import Proxy
from optimizer_svc.repair import FALLBACKS, Repair
from optimizer_svc.search import Search
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.workspace import Workspace
from tests.optimizer.conftest import ARCHITECTURE, LABELS

pytestmark = pytest.mark.slow

RECIPE = "int8_channel_core"


@pytest.fixture(scope="module")
def spec(data: Path, finetuned: FinetuneResult) -> OptimizationSpec:
    return OptimizationSpec(
        checkpoint=finetuned.output,
        architecture=ARCHITECTURE,
        labels=LABELS,
        data=data,
        model="m",
        allow_unproved=True,
        recipes=(RECIPE,),
        distill_epochs=1,
        engines=("onnxruntime",),
    )


@pytest.fixture(scope="module")
def ingested(spec: OptimizationSpec) -> Ingested:
    return ingest(spec)


class Strict(Search):
    """A search in which fp32 is accepted, and int8 only where `forgiven` says so."""

    forgiven: Callable[[Trial], bool] = staticmethod(lambda _trial: False)

    def validate(self, proxy: Proxy) -> Trial:
        trial = super().validate(proxy)
        assert trial.comparison is not None
        accepted = not trial.candidate.quantization or self.forgiven(trial)
        failures = () if accepted else ("refused by the test",)
        judged = replace(trial, comparison=replace(trial.comparison, failures=failures, accepted=accepted))
        self._note(judged)
        return judged


def broken(
    spec: OptimizationSpec, ingested: Ingested, folder: Path, forgiven: Callable[[Trial], bool]
) -> tuple[Strict, Repair, Network]:
    workspace, pace = Workspace(folder), Pace(lambda _p: None, lambda: 0.0, lambda: False, spec.budget_minutes)
    base = original(ingested)
    search = Strict(baseline(ingested, workspace), engine_options(spec.engines), spec, ingested, workspace, pace)
    search.forgiven = forgiven  # type: ignore[method-assign]
    search.explore([base])
    ladder = Ladder(base, spec, ingested, workspace, pace)
    return search, Repair(search, ladder, spec, ingested, workspace, pace), base


def recipes(search: Search) -> list[str]:
    return [trial.candidate.recipe for trial in search.trials if trial.candidate.quantization]


def test_the_most_sensitive_layers_go_back_to_fp32_until_a_candidate_is_accepted(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    search, repair, base = broken(spec, ingested, tmp_path, lambda t: "+3" in t.candidate.recipe)
    assert repair.run([base]) == ()
    assert recipes(search) == [RECIPE, f"{RECIPE}+1fp32", f"{RECIPE}+3fp32"]
    mixed = search.trials[-1].candidate
    worst = repair.sensitivity(search.trials[-2].candidate)
    assert len(mixed.quantization["fp32_layers"]) == 3
    assert mixed.title.endswith("3 most sensitive layers in fp32")
    assert mixed.quantization["fp32_layers"][0] not in {layer.layer for layer in worst}


def test_what_stays_broken_is_trained_with_rounded_weights(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    search, repair, base = broken(spec, ingested, tmp_path, lambda t: t.candidate.network.name != "original")
    (trained,) = repair.run([base])
    assert trained.name == "original aware"
    assert trained.facts["quantization_aware"] is True
    assert recipes(search)[: 1 + len(FALLBACKS)] == [RECIPE, *(f"{RECIPE}+{n}fp32" for n in FALLBACKS)]
    (accepted,) = [t for t in search.trials if t.accepted and t.candidate.quantization]
    assert accepted.candidate.name == f"original aware {RECIPE} onnxruntime"


def test_training_with_rounded_weights_can_be_left_out(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    plain = replace(spec, quantization_aware=False)
    _, repair, base = broken(plain, ingested, tmp_path, lambda _t: False)
    assert repair.run([base]) == ()


def test_what_is_not_broken_is_not_repaired(spec: OptimizationSpec, ingested: Ingested, tmp_path: Path) -> None:
    search, repair, base = broken(spec, ingested, tmp_path, lambda _t: True)
    assert repair.run([base]) == ()
    assert recipes(search) == [RECIPE]
