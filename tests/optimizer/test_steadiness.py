"""The second look at a choice, on turned tiles, with tiny models that see all of a tile or only its upper half."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency
from optimizer_svc.pace import Pace
from optimizer_svc.spec import Progress
from optimizer_svc.steadiness import ENOUGH_TILES, settle, shortlist, turned
from optimizer_svc.tiles import TileSet
from optimizer_svc.workspace import Workspace
from tests.artifacts import coloured, tiny_model
from tests.optimizer.conftest import LABELS
from tests.optimizer.test_confirm import NAMES, SPEC, Trial, ingested, runnable, trial


def upper_half(model: bytes) -> bytes:
    """The model, blind to the lower half of a tile."""
    proto = onnx.load_model_from_string(model)
    for name, value in (("begin", [0]), ("end", [16]), ("axis", [1])):
        proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.int64), name))
    proto.graph.node[0].input[0] = "upper"
    proto.graph.node.insert(0, helper.make_node("Slice", ["tiles", "begin", "end", "axis"], ["upper"]))
    return proto.SerializeToString()


def named(made: Trial, network: str, ms: float, model: bytes = b"") -> Trial:
    own = replace(made.candidate.network, name=network)
    candidate = replace(made.candidate, network=own, model=model or made.candidate.model)
    return replace(made, candidate=candidate, latency=Latency(ms / 1000, ms / 1010, ms / 990, 30))


@pytest.fixture
def world() -> Ingested:
    """Val tiles whose upper two thirds show their class; the rest shows another."""
    made = ingested(test=False)
    tiles = made.val.tiles.copy()
    tiles[:, 22:] = coloured(NAMES[0], 32, 10)
    return replace(made, val=TileSet(tiles, made.val.targets), identity={"test": 1})


def pace(said: list[Progress]) -> Pace:
    return Pace(said.append, lambda: 0.0, lambda: False, 1.0)


FAST = named(runnable("half", NAMES), "half", 1.0, upper_half(tiny_model(NAMES, 32)))
SLOW = named(runnable("original", NAMES), "original", 3.0)


def test_few_tiles_are_seen_in_all_their_symmetries_and_many_in_none(world: Ingested) -> None:
    views = turned(world.val)
    assert len(views) == 7 * len(world.val)
    first = [views.tiles[k * len(world.val) + 4] for k in range(7)]
    assert len({tile.tobytes() for tile in [*first, world.val.tiles[4]]}) == 4  # these tiles have one axis of their own
    enough = TileSet(np.zeros((ENOUGH_TILES, 4, 4, 3), np.uint8), np.zeros(ENOUGH_TILES, np.int64))
    assert len(turned(enough)) == 0


def test_a_choice_that_is_wrong_on_turned_tiles_is_refused_and_the_next_one_looked_at(
    world: Ingested, tmp_path: Path
) -> None:
    said: list[Progress] = []
    settled = settle([FAST, SLOW], SPEC, world, Workspace(tmp_path), pace(said))
    assert [t.accepted for t in settled] == [False, True]
    assert settled[0].comparison is not None
    assert "on turned val tiles" in settled[0].comparison.failures[-1]
    assert [p.message for p in said] == [f"Reading turned val tiles with {t.candidate.name}" for t in (FAST, SLOW)]


def test_what_would_not_be_chosen_is_not_looked_at(world: Ingested, tmp_path: Path) -> None:
    said: list[Progress] = []
    steady = named(SLOW, "steady", 0.5)
    settle([FAST, steady, trial("worse", ms=0.1, size=1, wrong=90)], SPEC, world, Workspace(tmp_path), pace(said))
    assert [p.message for p in said] == [f"Reading turned val tiles with {steady.candidate.name}"]


def test_a_shortlist_has_the_best_of_every_network_and_the_checkpoints_own(world: Ingested, tmp_path: Path) -> None:
    wide = [named(SLOW, f"pruned {i}0%", 1.0 + i / 2) for i in (1, 2, 3)]
    slower = named(SLOW, "pruned 10%", 9.0)
    slower = replace(slower, candidate=replace(slower.candidate, recipe="int8"))
    trials, names = shortlist([FAST, *wide, slower, SLOW], SPEC, world, Workspace(tmp_path), pace([]))
    assert [t.candidate.network.name for t in names] == ["pruned 10%", "pruned 20%", "original"]
    assert names[0] is wide[0]
    assert len(trials) == len({t.candidate.name for t in trials})
    assert SPEC.labels == LABELS
