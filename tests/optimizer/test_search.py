"""What a search tries when its time is over before it has begun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gramserve.runtime.engines import engine_options
from optimizer_svc.evaluate import baseline
from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.ingest import ingest
from optimizer_svc.networks import original
from optimizer_svc.pace import Pace
from optimizer_svc.search import OUT_OF_TIME, QUICK, Search
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.workspace import Workspace
from tests.optimizer.conftest import ARCHITECTURE, LABELS

pytestmark = pytest.mark.slow


def test_a_search_that_begins_late_tries_the_narrowest_network_and_the_checkpoints_own_by_one_quick_recipe(
    data: Path, finetuned: FinetuneResult, tmp_path: Path
) -> None:
    spec = OptimizationSpec(
        checkpoint=finetuned.output,
        architecture=ARCHITECTURE,
        labels=LABELS,
        data=data,
        model="m",
        engines=("onnxruntime",),
    )
    ingested, workspace = ingest(spec), Workspace(tmp_path)
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
