"""A candidate in production's shadow: counted, compared, never delivered, and at nobody's cost."""

from __future__ import annotations

from typing import Any

from gramserve.store.records import SlideState
from gramserve.store.registry import Resolved
from gramserve.store.shadows import Shadows, ShadowTally, Verdict
from inference_svc.app import App
from inference_svc.shadow import MAX_CRASHES, chosen
from tests.inference.bench import Bench
from tests.waiting import until


async def _pair(bench: Bench, *, share: float = 1.0, **options: Any) -> tuple[Resolved, Resolved]:
    """A version in production and one in its shadow."""
    production = await bench.publish()
    candidate = await bench.publish(promote=False, **(options or {"sharpness": 90.0}))
    await bench.registry.promote("gram", candidate.version, "shadow", share=share)
    return production, candidate


def _counted(worker: App, verdict: Verdict) -> float:
    value = worker.metrics.registry.get_sample_value("gramserve_shadow_slides_total", {"verdict": verdict.value})
    return value or 0.0


def _all(worker: App) -> float:
    return sum(_counted(worker, verdict) for verdict in Verdict)


async def _following(worker: App) -> None:
    """Until the worker knows of the shadow."""
    await until(lambda: worker._shadow._candidates)


async def _tally(bench: Bench) -> ShadowTally:
    return await Shadows(bench.objects).read("gram", 1, 2)


async def test_I13_a_shadow_runs_the_slides_of_production_and_delivers_nothing(bench: Bench) -> None:
    production, _ = await _pair(bench)
    async with bench.worker(children=3) as worker:
        await _following(worker)
        await bench.submit([await bench.field() for _ in range(12)], production)
        outcomes = await bench.ended()
        await until(lambda: _counted(worker, Verdict.SAME) == 12)
    assert {outcome.artifact_digest for outcome in outcomes.values()} == {production.digest}
    assert await bench.outcomes() == outcomes
    tally = await _tally(bench)
    assert tally.verdicts == {"SAME": 12}
    assert tally.candidate_s > 0
    assert tally.production_s > 0


async def test_what_the_candidate_calls_otherwise_is_counted_by_how_bad_it_is(bench: Bench) -> None:
    labels = ("GNR", "BACKGROUND", "GPC_CLUSTERS", "GPC_PAIRS_CHAINS", "GPR")
    production = await bench.publish()
    # A candidate that never sees an organism: no tile reaches its threshold.
    blind = await bench.publish(promote=False, sharpness=0.1)
    await bench.registry.promote("gram", blind.version, "shadow", share=1.0)
    async with bench.worker() as worker:
        await _following(worker)
        await bench.submit([await bench.field(label) for label in labels], production)
        await bench.ended()
        await until(lambda: _all(worker) == 5)
        assert _counted(worker, Verdict.MISSED_ORGANISM) == 4
        assert _counted(worker, Verdict.SAME) + _counted(worker, Verdict.REVIEW_DIFFERS) == 1


async def test_a_share_of_the_slides_is_run_and_always_the_same_ones(bench: Bench) -> None:
    production, _ = await _pair(bench, share=0.25)
    expected = sum(chosen("lab-1/b1", index, 0.25) for index in range(40))
    assert 3 <= expected <= 17
    images = [await bench.field() for _ in range(40)]
    async with bench.worker() as worker:
        await _following(worker)
        await bench.submit(images, production)
        await bench.ended()
        await until(lambda: _counted(worker, Verdict.SAME) == expected)
    assert (await _tally(bench)).verdicts == {"SAME": expected}


def test_the_choice_keeps_its_share_and_a_larger_share_holds_the_smaller_one() -> None:
    slides = [(f"lab/b{batch}", index) for batch in range(20) for index in range(500)]
    tenth = {slide for slide in slides if chosen(*slide, 0.1)}
    assert 900 <= len(tenth) <= 1100
    assert tenth <= {slide for slide in slides if chosen(*slide, 0.5)}
    assert all(chosen(*slide, 1.0) for slide in slides)


async def test_a_candidate_that_crashes_costs_production_nothing_and_is_given_up(bench: Bench) -> None:
    production, _ = await _pair(bench)
    images = [await bench.field() for _ in range(6)]
    for image in images:
        (bench.folder / f"shadow-crash-{image.sha256}").touch()
    async with bench.worker(children=1) as worker:
        await _following(worker)
        for number, image in enumerate(images):
            await bench.submit([image], production, batch=f"b{number}")
            (outcome,) = (await bench.ended(f"b{number}")).values()
            assert (outcome.state, outcome.attempts) == (SlideState.SUCCEEDED, 1)
            await until(lambda: _all(worker) == number + 1)  # noqa: B023 - called in this turn of the loop
        assert _counted(worker, Verdict.FAILED) == MAX_CRASHES
        assert _counted(worker, Verdict.SKIPPED) == len(images) - MAX_CRASHES
        assert worker.metrics.registry.get_sample_value("gramserve_slides_quarantined_total") == 0


async def test_a_candidate_that_cannot_be_loaded_costs_production_nothing(bench: Bench) -> None:
    production, candidate = await _pair(bench)
    path = f"{candidate.name}/model.onnx"
    await bench.objects.put(path, await bench.objects.get(path) + b"?")
    async with bench.worker(children=1) as worker:
        await _following(worker)
        await bench.submit([await bench.field() for _ in range(4)], production)
        outcomes = await bench.ended()
        failures = worker.metrics.registry.get_sample_value
        await until(lambda: failures("gramserve_model_load_failures_total", {"reason": "ARTIFACT_CORRUPT"}))
        assert worker.serving
        assert failures("gramserve_models_failed") == 0
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}
    assert {outcome.attempts for outcome in outcomes.values()} == {1}


async def test_slides_go_before_a_shadow_that_has_begun(bench: Bench) -> None:
    production, _ = await _pair(bench)
    first, second = await bench.field(), await bench.field()
    bench.hold(first, shadow=True)
    async with bench.worker(children=1) as worker:
        await _following(worker)
        await bench.submit([first], production)
        await bench.ended()
        await bench.held(first, shadow=True)
        # The one child is in the shadow when a slide comes: the slide waits in its socket, and the shadow gives way.
        await bench.submit([second], production, batch="b2")
        await until(lambda: any(slide.ticket is not None for slide in worker.held))
        bench.let_go(first, shadow=True)
        await bench.ended("b2")
        await until(lambda: _counted(worker, Verdict.SAME) == 2)
    assert bench.runs(first, shadow=True) == bench.runs(first) * 2


async def test_nothing_runs_in_the_shadow_while_a_slide_waits(bench: Bench) -> None:
    production, _ = await _pair(bench)
    images = [await bench.field() for _ in range(3)]
    for image in images:
        bench.hold(image)
    async with bench.worker(children=1) as worker:
        await _following(worker)
        await bench.submit(images, production)
        # In which order they reach the child is not said: the first one that it runs is done, the second one runs.
        done = await until(lambda: next((image for image in images if bench.runs(image)), None))
        assert done is not None
        await bench.held(done)
        bench.let_go(done)
        await until(lambda: worker._shadow._backlog)
        held = await until(lambda: next((one for one in images if one is not done and bench.runs(one)), None))
        assert held is not None
        await bench.held(held)
        assert _all(worker) == 0
        assert bench.runs(done, shadow=True) == []
        for image in images:
            if image is not done and image is not held:
                (bench.folder / f"hold-{image.sha256}").unlink()
        bench.let_go(held)
        await bench.ended()
        await until(lambda: _counted(worker, Verdict.SAME) == 3)


async def test_an_end_of_the_shadow_is_heard_while_the_worker_runs(bench: Bench) -> None:
    production, _ = await _pair(bench)
    async with bench.worker(children=1) as worker:
        await _following(worker)
        await bench.registry.remove("gram", "shadow")
        await until(lambda: not worker._shadow._candidates)
        await bench.submit([await bench.field()], production)
        await bench.ended()
        assert not worker._shadow._backlog
        assert _all(worker) == 0
        await bench.registry.rollback("gram", "shadow")
        await _following(worker)
        await bench.submit([await bench.field()], production, batch="b2")
        await until(lambda: _counted(worker, Verdict.SAME) == 1)


async def test_a_candidate_without_memory_beside_production_pushes_nothing_out(bench: Bench) -> None:
    production, _ = await _pair(bench)
    image = await bench.field()
    async with bench.worker(children=1, models_memory_bytes=1) as worker:
        await _following(worker)
        await bench.submit([image], production)
        await bench.ended()
        failures = worker.metrics.registry.get_sample_value
        await until(lambda: failures("gramserve_model_load_failures_total", {"reason": "OUT_OF_MEMORY"}))
        assert failures("gramserve_models_loaded") == 1
        assert {version for child in worker.children._ready for version in child.models} == {production.name}
