"""What a search tries when its time is over before it has begun, and what it never takes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gramserve.runtime.engines import engine_options
from optimizer_svc.candidates import Candidate
from optimizer_svc.evaluate import baseline, validate
from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.ingest import Ingested, ingest
from optimizer_svc.networks import original
from optimizer_svc.pace import Pace
from optimizer_svc.search import OUT_OF_TIME, QUICK, Search
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.workspace import Workspace
from tests.optimizer.conftest import ARCHITECTURE, LABELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spec(data: Path, finetuned: FinetuneResult) -> OptimizationSpec:
    return OptimizationSpec(
        checkpoint=finetuned.output,
        architecture=ARCHITECTURE,
        labels=LABELS,
        data=data,
        model="m",
        allow_unproved=True,
        engines=("onnxruntime",),
    )


@pytest.fixture(scope="module")
def ingested(spec: OptimizationSpec) -> Ingested:
    return ingest(spec)


def test_a_search_that_begins_late_tries_the_narrowest_network_and_the_checkpoints_own_by_one_quick_recipe(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    pace = Pace(lambda _p: None, lambda: 0.0, lambda: False, spec.budget_minutes, spent_s=60 * spec.budget_minutes)
    base = original(ingested)
    narrow, middle = (replace(base, name=name, macs=macs) for name, macs in (("narrow", 1), ("middle", 2)))
    search = Search(baseline(ingested, workspace), engine_options(spec.engines), spec, ingested, workspace, pace)
    search.explore([base, middle, narrow])
    rows = [(t.candidate.network.name, t.candidate.recipe) for t in search.trials if t.note != OUT_OF_TIME]
    assert sorted(rows) == [("narrow", "fp32"), ("narrow", QUICK), ("original", "fp32"), ("original", QUICK)]
    late = {t.candidate.network.name: t for t in search.trials if t.note == OUT_OF_TIME}
    assert late["middle"].candidate.recipe == "fp32"
    assert late["narrow"].candidate.recipe not in {"fp32", QUICK}


def test_a_candidate_whose_logits_are_not_all_finite_is_refused(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    reference = baseline(ingested, workspace)
    right = reference.copy()
    right[3, reference[3].argmin()] = -np.inf  # the class that is called stays the same
    monkeypatch.setattr("optimizer_svc.evaluate.answer", lambda *_given: right)
    candidate = Candidate(original(ingested), "fp32", engine_options(("onnxruntime",))[0], b"m", "", "", 0.0)
    _, comparison = validate(candidate, reference, spec, ingested, workspace)
    assert comparison.failures == ("its logits are not finite on 1 of the tiles",)
    assert not comparison.accepted
