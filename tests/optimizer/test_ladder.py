"""Pruning rung by rung, on a tiny network and a clock that the tests turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from optimizer_svc.finetune import FinetuneResult
from optimizer_svc.ingest import Ingested, ingest
from optimizer_svc.ladder import RUNGS, SHORT_EPOCHS, Ladder, rungs
from optimizer_svc.networks import original
from optimizer_svc.pace import Pace
from optimizer_svc.spec import OptimizationSpec, Progress, Stopped
from optimizer_svc.workspace import Workspace
from tests.optimizer.conftest import ARCHITECTURE, LABELS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def spec(data: Path, finetuned: FinetuneResult) -> OptimizationSpec:
    return OptimizationSpec(
        finetuned.output, ARCHITECTURE, LABELS, data, "m", margin=1.0, recall_margin=1.0, distill_epochs=2
    )


@pytest.fixture(scope="module")
def ingested(spec: OptimizationSpec) -> Ingested:
    return ingest(spec)


class Clock:
    """Seconds that pass only when somebody looks."""

    def __init__(self, step_s: float) -> None:
        self.now, self._step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now += self._step_s
        return self.now


def ladder(
    spec: OptimizationSpec,
    ingested: Ingested,
    folder: Path,
    said: list[Progress],
    *,
    step_s: float = 0.0,
    should_stop: Callable[[], bool] = lambda: False,
) -> Ladder:
    pace = Pace(said.append, Clock(step_s), should_stop, spec.budget_minutes)
    return Ladder(original(ingested), spec, ingested, Workspace(folder), pace)


def test_rungs_lead_in_even_steps_to_the_share_that_was_asked_for() -> None:
    assert rungs(None) == RUNGS
    assert rungs(0.5) == (0.5,)
    steps = rungs(0.1)
    assert steps[-1] == pytest.approx(0.1)
    ratios = [after / before for before, after in zip((1.0, *steps), steps, strict=False)]
    assert max(ratios) == pytest.approx(min(ratios), abs=0.01)
    assert min(ratios) > 0.44


def test_a_narrower_network_begins_where_the_wider_one_ended(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    said: list[Progress] = []
    networks, reason = ladder(spec, ingested, tmp_path, said).climb_down()
    assert reason == ""
    assert [n.macs for n in networks] == sorted((n.macs for n in networks), reverse=True)
    assert 2 <= len(networks) <= len(RUNGS)  # every rung keeps the accuracy, for a margin of one
    parents = [n.facts["parent"] for n in networks]
    assert parents == ["original", *(n.name for n in networks[:-1])]
    assert all(1 <= len(n.facts["epochs"]) <= SHORT_EPOCHS + spec.distill_epochs for n in networks)
    base = original(ingested)
    for network in networks[:2]:
        assert network.macs / base.macs == pytest.approx(network.facts["keep_macs"], abs=0.1)


def test_a_run_that_was_stopped_goes_on_at_the_rung_it_had_reached(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    said: list[Progress] = []
    with pytest.raises(Stopped):
        ladder(spec, ingested, tmp_path, said, should_stop=lambda: any("30%" in p.message for p in said)).climb_down()
    first = [p.message for p in said if p.message.startswith("Cutting")]
    assert first == ["Cutting channels down to 50% of the work", "Cutting channels down to 30% of the work"]
    again: list[Progress] = []
    ladder(spec, ingested, tmp_path, again).climb_down()
    assert next(p.message for p in again) == "Cutting channels down to 30% of the work"
    third: list[Progress] = []
    networks, _ = ladder(spec, ingested, tmp_path, third).climb_down()
    assert third == []
    assert len(networks) >= 2


def test_no_rung_begins_when_the_time_for_going_down_is_over(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    hurried = dataclasses.replace(spec, budget_minutes=0.01)
    networks, _ = ladder(hurried, ingested, tmp_path, [], step_s=0.1).climb_down()
    assert [n.name for n in networks] == ["pruned 50%"]


def test_no_pruning_is_asked_for_with_a_share_of_one(
    spec: OptimizationSpec, ingested: Ingested, tmp_path: Path
) -> None:
    networks, reason = ladder(dataclasses.replace(spec, prune_macs=1.0), ingested, tmp_path, []).climb_down()
    assert (networks, reason) == ((), "pruning was not asked for")
