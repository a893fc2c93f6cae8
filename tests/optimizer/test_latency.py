from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from optimizer_svc.architecture import InputSpec, build_model
from optimizer_svc.latency import eager_run, measure
from optimizer_svc.spec import Stopped

TILES = np.zeros((4, 32, 32, 3), np.uint8)


class Bench:
    """Runs that take a known time of a clock of their own."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.order: list[str] = []

    def run(self, name: str, takes_s: float) -> object:
        def go(_tiles: NDArray[np.uint8]) -> object:
            self.order.append(name)
            self.now_s += takes_s
            return None

        return go

    def timer(self) -> float:
        return self.now_s


def test_the_measured_time_is_that_of_one_tile() -> None:
    bench = Bench()
    runs = {"fast": bench.run("fast", 0.01), "slow": bench.run("slow", 0.04)}
    found = measure(runs, TILES, batch_tiles=4, rounds=7, timer=bench.timer)  # type: ignore[arg-type]
    assert found["fast"].median_s == pytest.approx(0.0025)
    assert found["slow"].images_per_s == pytest.approx(100)
    assert found["fast"].low_s <= found["fast"].median_s <= found["fast"].high_s
    assert found["fast"].rounds == 7


def test_each_run_is_given_as_many_tiles_at_once_as_serve() -> None:
    given: dict[str, set[int]] = {"one": set(), "three": set()}
    runs = {name: lambda tiles, name=name: given[name].add(len(tiles)) for name in given}
    measure(runs, TILES, batch_tiles={"one": 1, "three": 3}, rounds=1, min_round_s=0)  # type: ignore[arg-type]
    assert given == {"one": {1}, "three": {3}}


def test_rounds_end_when_every_median_is_known_well_enough() -> None:
    bench = Bench()
    steady = measure({"a": bench.run("a", 1.0)}, TILES, batch_tiles=4, max_s=1e9, timer=bench.timer)  # type: ignore[dict-item]
    assert steady["a"].rounds == 8
    noise = iter(np.random.default_rng(0).uniform(0.5, 1.5, 1000))

    def restless(_tiles: NDArray[np.uint8]) -> object:
        bench.now_s += next(noise)
        return None

    runs = {"a": bench.run("a", 1.0), "restless": restless}
    found = measure(runs, TILES, batch_tiles=4, max_s=1e9, timer=bench.timer)  # type: ignore[arg-type]
    assert found["a"].rounds == found["restless"].rounds == 30


def test_candidates_take_turns_in_changing_order() -> None:
    bench = Bench()
    runs = {name: bench.run(name, 1.0) for name in "abc"}
    measure(runs, TILES, batch_tiles=4, rounds=20, precision=-1, max_s=1e9, timer=bench.timer)  # type: ignore[arg-type]
    rounds = ["".join(bench.order[i : i + 3]) for i in range(6, len(bench.order), 3)]
    assert len(rounds) == 20
    assert all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len(set(rounds)) > 1


def test_a_short_run_is_repeated_and_the_time_limit_ends_the_rounds() -> None:
    bench = Bench()
    runs = {"quick": bench.run("quick", 0.001)}
    found = measure(  # type: ignore[arg-type]
        runs,  # type: ignore[arg-type]
        TILES,
        batch_tiles=4,
        rounds=1000,
        min_round_s=0.1,
        max_s=1.0,
        precision=-1,
        timer=bench.timer,
    )
    assert 5 <= found["quick"].rounds <= 11
    assert len(bench.order) > 100 * found["quick"].rounds


def test_measuring_stops_when_asked() -> None:
    bench = Bench()
    with pytest.raises(Stopped):
        measure({"a": bench.run("a", 1.0)}, TILES, batch_tiles=4, should_stop=lambda: True)  # type: ignore[dict-item]


def test_the_checkpoint_runs_eagerly_from_the_same_tiles_on_one_thread() -> None:
    model = build_model("test_resnet", 5, 32).eval()
    before = torch.get_num_threads()
    logits = eager_run(model, InputSpec(32, (0.5,) * 3, (0.5,) * 3))(TILES)
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (4, 5)
    assert torch.get_num_threads() == before
