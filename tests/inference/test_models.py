"""I13: versions are verified, loaded ahead, swapped without dropping anything, and refused one by one."""

from __future__ import annotations

from gramserve.store.records import SlideState
from gramserve.store.registry import Resolved
from tests.inference.bench import Bench
from tests.inference.test_stopping import NOT_SERVING, SERVING, health
from tests.waiting import until


async def test_I13_batches_of_two_versions_run_side_by_side_each_with_its_own(bench: Bench) -> None:
    old = await bench.publish()
    new = await bench.publish(sharpness=90.0)
    await bench.submit([await bench.field() for _ in range(8)], old, batch="b1")
    await bench.submit([await bench.field() for _ in range(8)], new, batch="b2")
    async with bench.worker():
        first, second = await bench.ended("b1"), await bench.ended("b2")
    assert {outcome.artifact_digest for outcome in first.values()} == {old.digest}
    assert {outcome.artifact_digest for outcome in second.values()} == {new.digest}
    assert {o.state for o in (*first.values(), *second.values())} == {SlideState.SUCCEEDED}


async def test_a_promoted_version_is_loaded_before_a_slide_needs_it_and_nothing_is_dropped(bench: Bench) -> None:
    old = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    async with bench.worker(children=3) as worker:
        await until(lambda: _loaded(worker.metrics) == 1)
        await bench.submit([image, *[await bench.field() for _ in range(5)]], old)
        await bench.held(image)
        new = await bench.publish(sharpness=90.0)
        # A child is in the middle of a slide of the old version, or two where it was moved; another loads the new one.
        await until(lambda: _loaded(worker.metrics) == 2)
        bench.let_go(image)
        outcomes = await bench.ended()
        await bench.submit([await bench.field()], new, batch="b2")
        assert (await bench.ended("b2"))[0].artifact_digest == new.digest
    assert {outcome.artifact_digest for outcome in outcomes.values()} == {old.digest}
    assert {outcome.state for outcome in outcomes.values()} == {SlideState.SUCCEEDED}


def _loaded(metrics: object) -> float | None:
    value: float | None = metrics.registry.get_sample_value("gramserve_models_loaded")  # type: ignore[attr-defined]
    return value


async def _corrupt(bench: Bench, version: Resolved) -> None:
    path = f"{version.name}/model.onnx"
    data = bytearray(await bench.objects.get(path))
    data[len(data) // 2] ^= 1
    await bench.objects.put(path, bytes(data))


async def test_I13_a_corrupted_version_is_reported_while_the_old_one_serves(bench: Bench) -> None:
    old = await bench.publish()
    broken = await bench.publish(promote=False, sharpness=90.0)
    await _corrupt(bench, broken)
    await bench.registry.promote("gram", broken.version)
    await bench.submit([await bench.field() for _ in range(6)], old, batch="b1")
    await bench.submit([await bench.field() for _ in range(2)], broken, batch="b2")
    async with bench.worker() as worker:
        good, bad = await bench.ended("b1"), await bench.ended("b2")
        failures = worker.metrics.registry.get_sample_value
        assert failures("gramserve_model_load_failures_total", {"reason": "ARTIFACT_CORRUPT"})
        assert worker.serving
        await until(lambda: failures("gramserve_models_failed") == 1)
    assert {outcome.state for outcome in good.values()} == {SlideState.SUCCEEDED}
    for outcome in bad.values():
        assert outcome.error is not None
        assert (outcome.error.reason, outcome.attempts) == ("MODEL_UNAVAILABLE", 3)


async def test_a_promoted_version_that_cannot_serve_is_told_by_health_until_it_can(bench: Bench) -> None:
    old = await bench.publish()
    broken = await bench.publish(promote=False, sharpness=90.0)
    whole = await bench.objects.get(f"{broken.name}/model.onnx")
    await _corrupt(bench, broken)
    async with bench.worker(children=1) as worker:

        async def said(status: int) -> bool:
            return await health(worker.port, "models/gram") == status

        await until(lambda: worker._watcher.serving("gram") == old)
        await until(lambda: said(SERVING))
        await bench.registry.promote("gram", broken.version)
        await until(lambda: said(NOT_SERVING))
        assert await health(worker.port) == SERVING
        # The one before serves on: batches that were frozen to it lose nothing.
        assert worker._watcher.serving("gram") == old
        await bench.submit([await bench.field()], old)
        assert (await bench.ended())[0].state is SlideState.SUCCEEDED
        await bench.registry.rollback("gram")
        await until(lambda: said(SERVING))
        await bench.objects.put(f"{broken.name}/model.onnx", whole)
        await bench.registry.promote("gram", broken.version)
        await until(lambda: worker._watcher.serving("gram") == broken)
        await until(lambda: said(SERVING))


async def test_I13_another_artifact_under_the_name_of_a_frozen_version_does_not_serve(bench: Bench) -> None:
    version = await bench.publish()
    await bench.submit([await bench.field()], Resolved(version.model, version.version, "0" * 64))
    async with bench.worker(children=1, max_attempts=1):
        outcomes = await bench.ended()
    assert outcomes[0].error is not None
    assert outcomes[0].error.reason == "MODEL_UNAVAILABLE"


async def test_an_artifact_that_is_repaired_serves_again_without_a_restart(bench: Bench) -> None:
    version = await bench.publish()
    whole = await bench.objects.get(f"{version.name}/model.onnx")
    await _corrupt(bench, version)
    await bench.submit([await bench.field()], version)
    async with bench.worker(children=1, max_attempts=50) as worker:
        failed = worker.metrics.registry.get_sample_value
        await until(lambda: failed("gramserve_slide_retries_total", {"reason": "MODEL_UNAVAILABLE"}))
        await bench.objects.put(f"{version.name}/model.onnx", whole)
        outcomes = await bench.ended()
    assert outcomes[0].state is SlideState.SUCCEEDED


async def test_children_keep_no_more_versions_than_they_may(bench: Bench) -> None:
    versions = [await bench.publish(promote=False, sharpness=60.0 + number) for number in range(3)]
    for number, version in enumerate(versions * 2):
        await bench.submit([await bench.field()], version, batch=f"b{number}")
    async with bench.worker(children=1, models_per_child=2) as worker:
        for number, version in enumerate(versions * 2):
            assert (await bench.ended(f"b{number}"))[0].artifact_digest == version.digest
        assert _loaded(worker.metrics) == 2


async def test_a_damaged_alias_of_one_model_keeps_no_other_from_being_loaded(bench: Bench) -> None:
    await bench.publish("aaa")
    await bench.objects.put("models/aaa/aliases/production", b"{")
    await bench.publish("gram")
    async with bench.worker(children=1) as worker:
        await until(lambda: _loaded(worker.metrics) == 1)
