"""What each step cost and gained, the Pareto front and the command, on hand-made trials."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from gramserve.store.manifest import EngineSettings
from optimizer_svc.acceptance import Rules, compare
from optimizer_svc.candidates import Candidate
from optimizer_svc.evaluate import Trial
from optimizer_svc.findings import front, why_not
from optimizer_svc.latency import Latency
from optimizer_svc.networks import Network
from optimizer_svc.reproduce import command
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.steps import ancestry, steps
from tests.optimizer.conftest import LABELS

TARGETS = np.repeat(np.arange(5), 100).astype(np.int64)


def network(name: str, parent: str = "", macs: int = 100) -> Network:
    facts: dict[str, Any] = {"parent": parent} if parent else {}
    return Network(name, None, macs, 10, {}, facts, "")  # type: ignore[arg-type]


ORIGINAL = network("original")
HALF = network("pruned 50%", "original", 50)
QUARTER = network("pruned 25%", "pruned 50%", 25)
NETWORKS = (ORIGINAL, HALF, QUARTER)


def trial(of: Network, recipe: str, engine: str, ms: float | None, size: int, *, wrong: int = 0) -> Trial:
    candidate = Candidate(of, recipe, EngineSettings(name=engine), bytes(size), "", "dynamo", 0.0, f"the {recipe}")
    called = TARGETS.copy()
    called[200 : 200 + wrong] = 3
    comparison = compare(TARGETS, called, TARGETS, LABELS, Rules(0.1, 0.5, allow_unproved=True))
    speed = None if ms is None else Latency(ms / 1000, ms / 1000, ms / 1000, 9)
    return Trial(candidate, None, comparison, speed)


EAGER = Latency(0.04, 0.04, 0.04, 9)
CHECKPOINT = {"bytes": 1000, "accuracy": 0.99, "macs": 100}
PLAIN = trial(ORIGINAL, "fp32", "onnxruntime", 20, 1000)
PLAIN_HALF = dataclasses.replace(trial(HALF, "fp32", "onnxruntime", None, 500), proxy=Latency(0.01, 0.01, 0.01, 3))
PLAIN_QUARTER = trial(QUARTER, "fp32", "onnxruntime", 5, 250)
INT8 = trial(QUARTER, "int8", "onnxruntime", 2, 70)
CHOSEN = trial(QUARTER, "int8", "openvino", 1, 70)
TRIALS = (CHOSEN, trial(QUARTER, "fp32", "openvino", 4, 250), INT8, PLAIN_QUARTER, PLAIN_HALF, PLAIN)


def test_a_network_comes_from_all_those_that_it_was_cut_from() -> None:
    assert [n.name for n in ancestry(QUARTER, NETWORKS)] == ["original", "pruned 50%", "pruned 25%"]
    assert ancestry(ORIGINAL, NETWORKS) == [ORIGINAL]
    orphan = network("pruned 10%", "pruned 20%")
    assert [n.name for n in ancestry(orphan, (*NETWORKS, orphan))] == ["original", "pruned 10%"]


def test_every_step_is_told_with_its_factor_against_the_one_before() -> None:
    rows = steps(TRIALS, NETWORKS, CHOSEN, CHECKPOINT, EAGER)
    assert [(row["ms"], row["bytes"], row["speed_gain"], row["size_gain"]) for row in rows] == [
        (40.0, 1000, None, None),
        (20.0, 1000, 2.0, 1.0),
        (10.0, 500, 2.0, 2.0),
        (5.0, 250, 2.0, 2.0),
        (2.0, 70, 2.5, 3.57),
        (1.0, 70, 2.0, 1.0),
    ]
    assert [row["quick"] for row in rows] == [False, False, True, False, False, False]
    assert rows[4]["what"] == "quantized: the int8, on onnxruntime"
    assert rows[5]["what"] == "run by openvino"


def test_without_a_chosen_candidate_the_steps_end_with_the_export() -> None:
    assert [row["ms"] for row in steps(TRIALS, NETWORKS, None, CHECKPOINT, EAGER)] == [40.0, 20.0]


def test_the_export_itself_can_be_what_is_chosen() -> None:
    assert [row["ms"] for row in steps(TRIALS, NETWORKS, PLAIN, CHECKPOINT, EAGER)] == [40.0, 20.0]


def test_the_front_holds_what_nothing_else_beats_in_accuracy_and_speed() -> None:
    made = {
        "fast": trial(network("fast"), "fp32", "onnxruntime", 1, 9, wrong=3),
        "slower and worse": trial(network("slower and worse"), "fp32", "onnxruntime", 2, 9, wrong=4),
        "better": trial(network("better"), "fp32", "onnxruntime", 3, 9, wrong=1),
        "slower and no better": trial(network("slower and no better"), "fp32", "onnxruntime", 4, 9, wrong=1),
        "refused": trial(network("refused"), "fp32", "onnxruntime", 0.5, 9, wrong=90),
        "best": trial(network("best"), "fp32", "onnxruntime", 9, 9),
    }
    places = front(list(made.values()))
    assert list(places.values()) == [1, 2, 3]
    assert [name.removesuffix(" fp32").removesuffix(" fp32 onnxruntime") for name in places] == [
        "fast",
        "better",
        "best",
    ]


def test_a_trial_that_was_dropped_early_says_why() -> None:
    dropped = Trial(PLAIN.candidate, None, None, None, 3.0, None, "its logits are too far from those of fp32")
    assert why_not(dropped, LABELS) == "its logits are too far from those of fp32"


SPEC = OptimizationSpec(Path("/secret/c.pt"), "resnet18", LABELS, Path("/secret/data"), "gram")


def test_the_command_names_what_is_not_the_default_and_no_path() -> None:
    assert command(SPEC) == (
        "gramserve optimize CHECKPOINT --arch resnet18 --labels LABELS.yaml --data DATA --model gram "
        "--budget-minutes 20 --seed 0"
    )
    other = dataclasses.replace(
        SPEC,
        model="my gram",
        margin=0.02,
        prune_macs=1.0,
        recipes=("a", "b"),
        mean=(0.1, 0.2, 0.3),
        allow_unproved=True,
    )
    assert command(other) == (
        "gramserve optimize CHECKPOINT --arch resnet18 --labels LABELS.yaml --data DATA --model 'my gram' "
        "--budget-minutes 20 --margin 0.02 --keep-macs 1.0 --mean 0.1 0.2 0.3 --recipe a --recipe b --allow-unproved "
        "--seed 0"
    )
