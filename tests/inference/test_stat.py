"""A STAT slide overtakes routine ones, also inside a child that runs one, and whoever crashes pays for itself alone."""

from __future__ import annotations

import os
import signal

import pytest

from gramserve.store.records import ImageRecord, SlideState
from gramserve.store.registry import Resolved
from inference_svc.app import App
from inference_svc.depth import SHALLOWEST as DEPTH
from inference_svc.process import URGENT_DEPTH
from tests.artifacts import coloured_file
from tests.inference.bench import Bench
from tests.waiting import until


async def large_field(bench: Bench) -> ImageRecord:
    """Twelve tiles: three batches, between which a child can be interrupted."""
    return await bench.image(coloured_file("GPR", 200, 130))


async def given_to_a_child(worker: App, slides: int) -> None:
    """Until so many slides are held and none of them waits for room in a child."""
    await until(lambda: len([slide for slide in worker.held if slide.ticket is not None]) == slides)
    assert not worker.children._waiting


async def interrupted(bench: Bench, worker: App, version: Resolved, routine: ImageRecord, stat: ImageRecord) -> int:
    """A child that began `routine`, was interrupted by `stat`, and holds there; its process id."""
    bench.hold(routine)
    bench.hold(stat)
    await bench.submit([routine], version, batch="routine")
    await bench.held(routine)
    await bench.submit([stat], version, batch="stat", stat=True)
    await given_to_a_child(worker, 2)
    bench.let_go(routine)
    return await bench.held(stat)


async def test_a_stat_slide_runs_inside_a_routine_slide_that_had_begun(bench: Bench) -> None:
    version = await bench.publish()
    routine, stat = await large_field(bench), await bench.field("GNR")
    async with bench.worker(children=1) as worker:
        child = await interrupted(bench, worker, version, routine, stat)
        assert bench.runs(routine) == [child]
        assert await bench.outcomes("routine") == {}
        bench.let_go(stat)
        urgent, interrupted_one = (await bench.ended("stat"))[0], (await bench.ended("routine"))[0]
    assert urgent.time <= interrupted_one.time
    assert (urgent.attempts, interrupted_one.attempts) == (1, 1)
    assert urgent.call is not None
    assert [finding["label"] for finding in urgent.call["findings"]] == ["GNR"]
    assert interrupted_one.call is not None
    assert [(f["label"], f["tile_count"]) for f in interrupted_one.call["findings"]] == [("GPR", 12)]


async def test_I13_the_nested_slide_may_need_another_model_and_each_outcome_names_its_own(bench: Bench) -> None:
    version, other = await bench.publish(), await bench.publish("other", batch_tiles=2)
    routine, stat = await large_field(bench), await bench.field("GNR")
    bench.hold(routine)
    async with bench.worker(children=1, models_per_child=1) as worker:
        await bench.submit([routine], version, batch="routine")
        await bench.held(routine)
        await bench.submit([stat], other, batch="stat", stat=True)
        await given_to_a_child(worker, 2)
        bench.let_go(routine)
        urgent, interrupted_one = (await bench.ended("stat"))[0], (await bench.ended("routine"))[0]
    assert urgent.artifact_digest == other.digest
    assert interrupted_one.artifact_digest == version.digest
    assert (urgent.state, interrupted_one.state) == (SlideState.SUCCEEDED, SlideState.SUCCEEDED)


async def test_I7_a_child_killed_in_nested_work_costs_the_stat_slide_a_crash_and_the_interrupted_one_nothing(
    bench: Bench,
) -> None:
    version = await bench.publish()
    routine, stat = await large_field(bench), await bench.field("GNR")
    async with bench.worker(children=1) as worker:
        child = await interrupted(bench, worker, version, routine, stat)
        os.kill(child, signal.SIGKILL)
        bench.let_go(stat)
        urgent, interrupted_one = (await bench.ended("stat"))[0], (await bench.ended("routine"))[0]
    assert (urgent.state, urgent.attempts) == (SlideState.SUCCEEDED, 2)
    assert (interrupted_one.state, interrupted_one.attempts) == (SlideState.SUCCEEDED, 1)
    assert (len(bench.runs(stat)), len(bench.runs(routine))) == (2, 2)
    assert await bench.terminal_events("stat") == {0: ["SUCCEEDED"]}
    assert await bench.terminal_events("routine") == {0: ["SUCCEEDED"]}


async def test_I7_a_stat_slide_that_kills_three_children_is_quarantined_and_what_it_interrupted_is_not_charged(
    bench: Bench,
) -> None:
    version = await bench.publish()
    routine, stat = await large_field(bench), await bench.field("GNR")
    bench.crash(stat)
    bench.hold(routine)
    async with bench.worker(children=1) as worker:
        await bench.submit([routine], version, batch="routine")
        await bench.held(routine)
        await bench.submit([stat], version, batch="stat", stat=True)
        await given_to_a_child(worker, 2)
        bench.let_go(routine)
        poison, interrupted_one = (await bench.ended("stat"))[0], (await bench.ended("routine"))[0]
    assert poison.error is not None
    assert (poison.error.reason, poison.attempts) == ("WORKER_CRASHED", 3)
    assert (interrupted_one.state, interrupted_one.attempts) == (SlideState.SUCCEEDED, 1)


async def test_I7_a_routine_slide_that_went_on_after_an_interruption_is_charged_with_its_own_crash(
    bench: Bench,
) -> None:
    version = await bench.publish()
    stat, large = await bench.field("GNR"), await bench.image(coloured_file("GPR", 2000, 2000))
    bench.hold(large)
    bench.hold(stat)
    # A hundred fields of a thousand tiles: it runs for far longer than this test.
    await bench.submit([[large] * 100], version, batch="routine")
    async with bench.worker(children=1) as worker:
        child = await bench.held(large)
        await bench.submit([stat], version, batch="stat", stat=True)
        await given_to_a_child(worker, 2)
        bench.let_go(large)
        await bench.held(stat)
        bench.let_go(stat)
        urgent = (await bench.ended("stat"))[0]
        os.kill(child, signal.SIGKILL)
        await until(lambda: len(bench.runs(large)) == 2)
    assert (urgent.state, urgent.attempts) == (SlideState.SUCCEEDED, 1)
    lease = (await bench.queue.lease("another", 1, idle=True))[0]
    assert (lease.stat, lease.attempts, lease.crashes) == (False, 0, 1)


async def test_I7_a_slide_that_waits_while_nested_work_crashes_is_not_charged_either(bench: Bench) -> None:
    version = await bench.publish()
    routine, stat, waiting = await large_field(bench), await bench.field("GNR"), await bench.field()
    bench.hold(routine)
    bench.crash(stat, once=True)
    async with bench.worker(children=1) as worker:
        await bench.submit([routine], version, batch="routine")
        await bench.held(routine)
        await bench.submit([waiting], version, batch="waiting")
        await given_to_a_child(worker, 2)
        await bench.submit([stat], version, batch="stat", stat=True)
        await given_to_a_child(worker, 3)
        bench.let_go(routine)
        outcomes = [(await bench.ended(batch))[0] for batch in ("stat", "routine", "waiting")]
    assert [outcome.attempts for outcome in outcomes] == [2, 1, 1]
    assert len(bench.runs(waiting)) == 1


async def test_a_nested_slide_that_takes_too_long_is_stopped_and_what_it_interrupted_pays_nothing(
    bench: Bench,
) -> None:
    version = await bench.publish()
    routine, stat = await large_field(bench), await bench.field("GNR")
    async with bench.worker(children=1, slide_timeout_s=4.0, max_attempts=1) as worker:
        await interrupted(bench, worker, version, routine, stat)
        urgent, interrupted_one = (await bench.ended("stat"))[0], (await bench.ended("routine"))[0]
    assert urgent.error is not None
    assert (urgent.error.reason, urgent.attempts) == ("SLIDE_TIMEOUT", 1)
    assert (interrupted_one.state, interrupted_one.attempts) == (SlideState.SUCCEEDED, 1)


async def test_stat_slides_get_in_when_all_room_is_taken_and_no_more_than_one_for_each_child(bench: Bench) -> None:
    version = await bench.publish()
    routine = [await bench.field() for _ in range(12)]
    stat = [await bench.field() for _ in range(6)]
    for image in routine[:2]:
        bench.hold(image)
    await bench.submit(routine[:2], version, batch="first")
    async with bench.worker(children=2) as worker:
        for image in routine[:2]:
            await bench.held(image)
        await bench.submit(routine[2:], version, batch="routine")
        await given_to_a_child(worker, 2 * DEPTH)
        await bench.submit(stat, version, batch="stat", stat=True)
        await given_to_a_child(worker, 2 * (DEPTH + URGENT_DEPTH))
        assert sum(slide.lease.stat for slide in worker.held) == 2
        assert (await bench.queue.depth()).ready_stat == 4
        for image in routine[:2]:
            bench.let_go(image)
        urgent, others = await bench.ended("stat"), await bench.ended("routine")
    assert {outcome.attempts for outcome in (*urgent.values(), *others.values())} == {1}
    assert max(outcome.time for outcome in urgent.values()) <= max(outcome.time for outcome in others.values())


async def test_a_stat_slide_overtakes_what_waits_in_the_socket_and_the_only_tile_of_what_began(bench: Bench) -> None:
    version = await bench.publish()
    first, second, stat = await bench.field(), await bench.field(), await bench.field()
    bench.hold(first)
    await bench.submit([first], version, batch="first")
    async with bench.worker(children=1) as worker:
        await bench.held(first)
        await bench.submit([second], version, batch="second")
        await given_to_a_child(worker, 2)
        await bench.submit([stat], version, batch="stat", stat=True)
        await given_to_a_child(worker, 3)
        bench.let_go(first)
        times = [(await bench.ended(batch))[0].time for batch in ("stat", "first", "second")]
    assert times == sorted(times)


async def test_nothing_runs_beside_a_slide_that_crashed_before_not_even_a_stat_slide(bench: Bench) -> None:
    version = await bench.publish()
    poison, stat = await bench.field(), await bench.field()
    bench.crash(poison, once=True)
    bench.hold(poison)
    await bench.submit([poison], version, batch="poison")
    async with bench.worker(children=2) as worker:
        await bench.held(poison)
        await bench.submit([stat], version, batch="stat", stat=True)
        worker._wake()
        assert [slide.lease.alone for slide in worker.held] == [True]
        bench.let_go(poison)
        urgent, alone = (await bench.ended("stat"))[0], (await bench.ended("poison"))[0]
    assert (urgent.attempts, alone.attempts) == (1, 2)
    assert alone.time <= urgent.time


@pytest.mark.parametrize("children", [1, 2])
async def test_I14_stopping_gives_back_stat_slides_that_wait_and_charges_nothing(bench: Bench, children: int) -> None:
    version = await bench.publish()
    routine = [await bench.field() for _ in range(children)]
    for image in routine:
        bench.hold(image)
    await bench.submit(routine, version, batch="routine")
    async with bench.worker(children=children, stop_grace_s=0.0) as worker:
        for image in routine:
            await bench.held(image)
        await bench.submit([await bench.field()], version, batch="stat", stat=True)
        await until(lambda: any(slide.lease.stat for slide in worker.held))
    for image in routine:
        bench.let_go(image)
    lease = (await bench.queue.lease("another", 1, idle=True))[0]
    assert (lease.stat, lease.attempts, lease.crashes) == (True, 0, 0)
