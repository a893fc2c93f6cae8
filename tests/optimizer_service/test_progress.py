"""Progress and trials between the job and the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gramserve.metrics import Metrics
from gramserve.store.objects import LocalObjects
from optimizer_svc.messages import Going
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.progress import MAX_TRIALS, ProgressWriter
from optimizer_svc.spec import TrialRow

ROW = TrialRow("original int8", "original", "int8", "openvino", 12.5, None, 1000, "DROPPED", "It is too slow.")


class Bench:
    """A store, a clock and what is said."""

    def __init__(self, folder: Path) -> None:
        self.now_s = 100.0
        self.metrics = Metrics()
        self.optimizations = Optimizations(LocalObjects(folder))

    def writer(self) -> ProgressWriter:
        return ProgressWriter(self.optimizations, "opt-1", self.metrics, lambda: self.now_s)

    async def message(self) -> str:
        _, progress = await self.optimizations.standing("opt-1")
        assert progress is not None
        return progress.message

    async def times(self) -> tuple[float, float, float]:
        _, progress = await self.optimizations.standing("opt-1")
        assert progress is not None
        return progress.start_time, progress.elapsed_s, progress.remaining_s


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_what_came_too_fast_to_be_written_is_written_by_flush(bench: Bench) -> None:
    writer = bench.writer()
    await writer.write(Going("PRUNE", "one", 0.1))
    await writer.write(Going("PRUNE", "two", 0.2, trials=(ROW,)))
    assert await bench.message() == "one"
    assert await bench.optimizations.trials("opt-1") == ()
    await writer.flush()
    assert await bench.message() == "two"
    assert await bench.optimizations.trials("opt-1") == (ROW,)


async def test_a_new_stage_and_what_comes_half_a_second_later_are_written_at_once(bench: Bench) -> None:
    writer = bench.writer()
    await writer.write(Going("PRUNE", "one", 0.1))
    await writer.write(Going("EXPORT", "two", 0.2))
    assert await bench.message() == "two"
    bench.now_s += 0.5
    await writer.write(Going("EXPORT", "three", 0.3))
    assert await bench.message() == "three"


async def test_a_run_that_goes_on_keeps_the_trials_the_start_and_the_time_of_the_run_before(bench: Bench) -> None:
    first = bench.writer()
    await first.write(Going("PRUNE", "one", 0.1, 60.0, 30.0, (ROW,)))
    bench.now_s += 1000
    second = bench.writer()
    await second.write(Going("INGEST", "Getting ready", 0.0, 0.0, 90.0))
    assert await bench.times() == (100.0, 60.0, 30.0)
    other = replace(ROW, name="pruned int8")
    await second.write(Going("PRUNE", "two", 0.2, 62.0, 28.0, (ROW, other)))
    assert await bench.times() == (100.0, 62.0, 28.0)
    assert await bench.optimizations.trials("opt-1") == (ROW, other)


async def test_a_trial_that_changed_stands_last_and_each_state_is_counted_once(bench: Bench) -> None:
    writer = bench.writer()
    other, accepted = replace(ROW, name="pruned int8"), replace(ROW, state="ACCEPTED")
    for number, rows in enumerate(((ROW, other), (ROW,), (accepted,), (replace(accepted, note="It is best."),))):
        bench.now_s += 1
        await writer.write(Going("MEASURE", str(number), 0.5, trials=rows))
    assert [row.name for row in await bench.optimizations.trials("opt-1")] == ["pruned int8", "original int8"]
    count = bench.metrics.registry.get_sample_value
    assert count("gramserve_optimization_trials_total", {"state": "DROPPED"}) == 2
    assert count("gramserve_optimization_trials_total", {"state": "ACCEPTED"}) == 1


async def test_the_trials_that_are_kept_are_bounded(bench: Bench) -> None:
    writer = bench.writer()
    rows = tuple(replace(ROW, name=f"trial {number}") for number in range(MAX_TRIALS + 5))
    await writer.write(Going("MEASURE", "many", 0.5, trials=rows))
    kept = await bench.optimizations.trials("opt-1")
    assert (len(kept), kept[0].name) == (MAX_TRIALS, "trial 5")
