"""The same pixels are not run twice, and nobody gets a call that is not theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.metrics import Metrics
from gramserve.store.layout import reuse_path, slide_path
from gramserve.store.records import ImageRecord, OutcomeRecord, SlideState
from gramserve.store.registry import Resolved
from gramserve.store.reuse import reuse_key
from tests.artifacts import coloured_file
from tests.inference.bench import LABORATORY, Bench
from tests.waiting import until


async def kept(bench: Bench, image: ImageRecord, version: Resolved, specimen_type: str = "") -> Path:
    """The file in which the call of `image` is kept; waits for it."""
    path = bench.folder / "store" / reuse_path(LABORATORY, reuse_key(version.digest, [image], specimen_type))
    await until(path.exists, what="the call is kept")
    return path


async def first_run(bench: Bench, image: ImageRecord, version: Resolved) -> OutcomeRecord:
    await bench.submit([image], version, batch="first")
    outcome = (await bench.ended("first"))[0]
    await kept(bench, image, version)
    return outcome


async def test_the_same_pixels_get_the_call_that_was_made_before_and_say_so(bench: Bench) -> None:
    version, image = await bench.publish(), await bench.field("GPR")
    async with bench.worker(children=1) as worker:
        first = await first_run(bench, image, version)
        tiles = _counted(worker.metrics, "gramserve_tiles_total")
        # Neither the image nor the model is needed any more.
        await bench.objects.delete(slide_path(LABORATORY, image.sha256))
        await bench.submit([image], version)
        second = (await bench.ended())[0]
        assert _counted(worker.metrics, "gramserve_slides_reused_total") == 1
        assert _counted(worker.metrics, "gramserve_tiles_total") == tiles
    assert (first.reused, second.reused) == (False, True)
    assert second.call == first.call
    assert (second.engine, second.artifact_digest) == (first.engine, version.digest)
    assert second.inference_s == 0.0


async def test_a_file_whose_digest_the_client_gave_is_known_by_it_and_one_without_is_always_run(
    bench: Bench, tmp_path: Path
) -> None:
    version, image = await bench.publish(), await bench.field("GPR")
    file = tmp_path / "field.png"
    file.write_bytes(await bench.objects.get(slide_path(LABORATORY, image.sha256)))
    named, bare = ImageRecord(uri=str(file), content_sha256=image.sha256), ImageRecord(uri=str(file))
    async with bench.worker(children=1, allowed_roots=(str(tmp_path),)):
        await first_run(bench, image, version)
        await bench.submit([named, bare], version)
        outcomes = await bench.ended()
    assert [outcomes[index].reused for index in (0, 1)] == [True, False]
    assert outcomes[0].call == outcomes[1].call


async def test_another_artifact_specimen_type_order_or_laboratory_is_run(bench: Bench) -> None:
    version, other = await bench.publish(), await bench.publish(sharpness=50.0)
    image, beside = await bench.field("GPR"), await bench.field("GNR")
    async with bench.worker(children=1):
        await first_run(bench, image, version)
        await bench.submit([image], other, batch="version")
        await bench.submit([image], version, batch="specimen", specimen_types=["csf"])
        await bench.submit([[image, beside], [beside, image]], version, batch="order")
        for batch in ("version", "specimen", "order"):
            assert not any(outcome.reused for outcome in (await bench.ended(batch)).values())
        # Another laboratory has not uploaded these pixels: that somebody else has is not to be learned.
        await bench.submit([image], version, batch="theirs", laboratory="lab-2")

        async def ended() -> OutcomeRecord | None:
            return await bench.batches.outcome("lab-2", "theirs", 0)

        outcome = await until(ended)
    assert outcome.state is SlideState.FAILED
    assert outcome.error is not None
    assert outcome.error.reason == "REFERENCE_NOT_FOUND"


@pytest.mark.parametrize("by", ["batch", "worker"])
async def test_a_batch_or_an_operator_can_have_every_slide_run(bench: Bench, by: str) -> None:
    version, image = await bench.publish(), await bench.field()
    async with bench.worker(children=1):
        await first_run(bench, image, version)
    async with bench.worker(children=1, reuse_results=by == "batch"):
        await bench.submit([image], version, reuse_results=by == "worker")
        assert not (await bench.ended())[0].reused


@pytest.mark.parametrize("damage", [b"", b"{", b"null", b'{"index":0,"round":0,"state":"FAILED"}'])
async def test_a_kept_call_that_is_damaged_is_not_used(bench: Bench, damage: bytes) -> None:
    version, image = await bench.publish(), await bench.field()
    async with bench.worker(children=1):
        await first_run(bench, image, version)
        path = await kept(bench, image, version)
        path.unlink()
        path.write_bytes(damage)
        await bench.submit([image], version)
        outcome = (await bench.ended())[0]
    assert outcome.state is SlideState.SUCCEEDED
    assert not outcome.reused


async def test_a_slide_that_failed_is_not_kept(bench: Bench) -> None:
    version, broken = await bench.publish(), await bench.image(b"no image")
    async with bench.worker(children=1):
        await bench.submit([broken], version, batch="first")
        assert (await bench.ended("first"))[0].state is SlideState.FAILED
        await first_run_of_another(bench, version)
        await bench.submit([broken], version)
        assert (await bench.ended())[0].state is SlideState.FAILED
    assert not [info async for info in bench.objects.list(f"reuse/{LABORATORY}") if await _is_failed(bench, info.path)]


async def first_run_of_another(bench: Bench, version: Resolved) -> None:
    image = await bench.image(coloured_file("GNR", 90, 90))
    await bench.submit([image], version, batch="other")
    await bench.ended("other")
    await kept(bench, image, version)


async def _is_failed(bench: Bench, path: str) -> bool:
    return OutcomeRecord.from_json(await bench.objects.get(path)).state is SlideState.FAILED


def test_slides_without_images_have_no_key() -> None:
    assert reuse_key("d", [], "") == ""


def _counted(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(name) or 0.0
