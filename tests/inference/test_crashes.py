"""Children that die, hang or run out of memory take one slide with them at most."""

from __future__ import annotations

import os
import signal

import cv2
import numpy as np
import pytest

from gramserve.store.records import SlideState
from inference_svc.app import App
from inference_svc.child import HOOK
from tests.inference.bench import Bench
from tests.waiting import until


async def test_I2_I7_a_killed_child_costs_its_slide_a_crash_and_nothing_else(bench: Bench) -> None:
    version = await bench.publish()
    images = [await bench.field() for _ in range(6)]
    bench.hold(images[0])
    await bench.submit(images, version)
    async with bench.worker(children=1) as worker:
        child = await bench.held(images[0])
        # The one behind it is in the child's socket already: it must not be charged.
        await until(lambda: len(worker.held) == 2)
        os.kill(child, signal.SIGKILL)
        bench.let_go(images[0])
        outcomes = await bench.ended()
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}
    assert [outcomes[index].attempts for index in range(6)] == [2, 1, 1, 1, 1, 1]
    assert [len(bench.runs(image)) for image in images] == [2, 1, 1, 1, 1, 1]
    assert await bench.terminal_events() == {index: ["SUCCEEDED"] for index in range(6)}


async def test_I7_a_slide_that_kills_three_children_is_quarantined_and_its_neighbours_finish(bench: Bench) -> None:
    version = await bench.publish()
    images = [await bench.field() for _ in range(8)]
    bench.crash(images[2])
    await bench.submit(images, version)
    async with bench.worker() as worker:
        outcomes = await bench.ended()
        await until(lambda: worker.children.ready == 2)
        assert worker.metrics.registry.get_sample_value("gramserve_slides_quarantined_total") == 1
    poison = outcomes.pop(2)
    assert poison.state is SlideState.FAILED
    assert poison.error is not None
    assert poison.error.reason == "WORKER_CRASHED"
    assert "SIGKILL" in poison.error.message
    assert poison.attempts == 3
    assert len(bench.runs(images[2])) == 3
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}
    assert {outcome.attempts for outcome in outcomes.values()} == {1}


async def test_I7_a_slide_that_crashed_runs_alone_the_next_time(bench: Bench) -> None:
    version = await bench.publish()
    images = [await bench.field() for _ in range(8)]
    bench.crash(images[0], once=True)
    bench.hold(images[0])
    await bench.submit(images, version)
    async with bench.worker() as worker:
        await bench.held(images[0])
        assert len(bench.runs(images[0])) == 2
        assert (len(worker.held), (await bench.queue.depth()).leased) == (1, 1)
        bench.let_go(images[0])
        outcomes = await bench.ended()
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}


async def test_a_slide_that_takes_too_long_is_stopped_and_fails_after_its_attempts(bench: Bench) -> None:
    version = await bench.publish()
    images = [await bench.field() for _ in range(3)]
    bench.hold(images[0])
    await bench.submit(images, version)
    async with bench.worker(children=1, slide_timeout_s=3.0, max_attempts=2):
        outcomes = await bench.ended()
    assert outcomes[0].error is not None
    assert (outcomes[0].error.reason, outcomes[0].attempts) == ("SLIDE_TIMEOUT", 2)
    assert [outcomes[index].state for index in (1, 2)] == [SlideState.SUCCEEDED] * 2
    assert len(bench.runs(images[0])) == 2


async def test_a_slide_that_needs_more_memory_than_a_child_may_have_fails_as_such(bench: Bench) -> None:
    version = await bench.publish()
    done, large = cv2.imencode(".png", np.zeros((7000, 7000, 3), np.uint8))
    assert done
    await bench.submit([await bench.field(), await bench.image(large.tobytes()), await bench.field()], version)
    async with bench.worker(children=1, child_memory_bytes=512 * 2**20, max_attempts=2):
        outcomes = await bench.ended()
    assert outcomes[1].error is not None
    assert outcomes[1].error.reason == "OUT_OF_MEMORY"
    assert [outcomes[index].state for index in (0, 2)] == [SlideState.SUCCEEDED] * 2


async def test_work_waiting_behind_a_long_slide_moves_to_an_idle_child(bench: Bench) -> None:
    version = await bench.publish()
    images = [await bench.field() for _ in range(4)]
    bench.hold(images[0])
    await bench.submit(images, version)
    async with bench.worker(children=2):
        await bench.held(images[0])
        await until(lambda: _all_but_the_first(bench))
        bench.let_go(images[0])
        outcomes = await bench.ended()
    assert {outcome.attempts for outcome in outcomes.values()} == {1}


async def _all_but_the_first(bench: Bench) -> bool:
    return set(await bench.outcomes()) == {1, 2, 3}


async def test_children_die_with_a_killed_worker_even_in_the_middle_of_a_slide(bench: Bench) -> None:
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.process(children=1) as worker:
        child = await bench.held(image)
        await worker.kill()
        await until(lambda: not _alive(child))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_children_that_cannot_start_are_tried_again_with_growing_delays(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOOK, "tests.inference.hooks:no_such_function")
    app = App(bench.settings(children=1))
    await app.start()
    try:
        restarts = app.metrics.registry.get_sample_value
        await until(lambda: (restarts("gramserve_child_restarts_total") or 0) >= 2)
        assert not app.serving
        assert app.children.ready == 0
    finally:
        await app.stop()
