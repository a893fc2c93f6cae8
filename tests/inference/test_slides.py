"""Slides become calls; those that cannot fail alone and say why."""

from __future__ import annotations

import hashlib
import struct
import zlib
from pathlib import Path

import pytest

from gramserve.samples import LABELS
from gramserve.store.records import ImageRecord, SlideState
from tests.artifacts import coloured_file
from tests.inference.bench import LABORATORY, Bench

ORGANISMS = [label for label in LABELS if label != "BACKGROUND"]


async def test_every_slide_of_a_batch_gets_the_call_of_its_colour(bench: Bench) -> None:
    version = await bench.publish()
    labels = [ORGANISMS[number % len(ORGANISMS)] for number in range(24)]
    await bench.submit([await bench.field(label) for label in labels], version)
    async with bench.worker() as worker:
        outcomes = await bench.ended()
        assert len(worker.held) == 0
    assert len(outcomes) == 24
    for index, label in enumerate(labels):
        outcome = outcomes[index]
        assert outcome.state is SlideState.SUCCEEDED
        assert outcome.call is not None
        assert [finding["label"] for finding in outcome.call["findings"]] == [label]
        assert outcome.attempts == 1
        assert outcome.worker_id == worker.worker_id
        assert outcome.engine.startswith("onnxruntime ")


async def test_a_specimen_type_has_its_own_review_threshold(bench: Bench) -> None:
    # Pale answers: the organism is called with a probability of about 0.9.
    version = await bench.publish(sharpness=12.0, review_by_specimen={"csf": 1.0})
    await bench.submit([await bench.field() for _ in range(3)], version, specimen_types=["", "csf", "blood-culture"])
    async with bench.worker():
        outcomes = await bench.ended()
    reasons = [call["review_reasons"] for call in (outcomes[index].call for index in range(3)) if call is not None]
    assert reasons == [[], ["LOW_CONFIDENCE"], []]


async def test_I13_every_outcome_names_the_digest_of_the_artifact_that_made_it(bench: Bench) -> None:
    version = await bench.publish()
    await bench.submit([await bench.field() for _ in range(3)], version)
    async with bench.worker():
        outcomes = await bench.ended()
    assert {outcome.artifact_digest for outcome in outcomes.values()} == {version.digest}


@pytest.mark.parametrize("extension", ["jpg", "png", "tif"])
async def test_the_three_formats_give_the_same_call(bench: Bench, extension: str) -> None:
    version = await bench.publish()
    await bench.submit([await bench.field("GPC_CLUSTERS", extension=extension)], version)
    async with bench.worker(children=1):
        outcomes = await bench.ended()
    assert outcomes[0].call is not None
    assert outcomes[0].call["findings"][0]["label"] == "GPC_CLUSTERS"


async def test_fields_of_one_slide_are_called_together_and_large_ones_are_tiled(bench: Bench) -> None:
    version = await bench.publish()
    large = await bench.image(coloured_file("GPR", 200, 130))
    await bench.submit([[await bench.field("GNR"), large, await bench.field("BACKGROUND")]], version)
    async with bench.worker(children=1):
        outcomes = await bench.ended()
    call = outcomes[0].call
    assert call is not None
    assert {finding["label"] for finding in call["findings"]} == {"GNR", "GPR"}
    rod = next(finding for finding in call["findings"] if finding["label"] == "GPR")
    assert rod["tile_count"] == 12
    assert {evidence["image_index"] for evidence in rod["evidence"]} == {1}


def _bomb() -> bytes:
    """A PNG whose header says 100,000 x 100,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


async def test_bad_images_fail_alone_each_with_its_reason_and_the_neighbours_succeed(
    bench: Bench, tmp_path: Path
) -> None:
    version = await bench.publish()
    outside = tmp_path / "outside.png"
    outside.write_bytes(coloured_file("GNR"))
    jpeg = coloured_file("GNR", 90, 90, "jpg")
    good = hashlib.sha256(b"never sent").hexdigest()
    bad = {
        "EMPTY_IMAGE": await bench.image(b""),
        "CORRUPT_IMAGE": await bench.image(jpeg[: len(jpeg) // 2]),
        "UNSUPPORTED_FORMAT": await bench.image(b"Dear laboratory, please find the image attached."),
        "IMAGE_TOO_LARGE": await bench.image(_bomb()),
        "IMAGE_TOO_SMALL": await bench.image(coloured_file("GNR", 1, 1)),
        "REFERENCE_NOT_FOUND": ImageRecord(sha256=good),
        "REFERENCE_DENIED": ImageRecord(uri=str(outside)),
        "CHECKSUM_MISMATCH": await _altered(bench),
    }
    slides: list[ImageRecord] = []
    for image in bad.values():
        slides += [await bench.field(), image]
    await bench.submit(slides, version)
    async with bench.worker():
        outcomes = await bench.ended()
    for position, reason in enumerate(bad):
        good_one, bad_one = outcomes[2 * position], outcomes[2 * position + 1]
        assert good_one.state is SlideState.SUCCEEDED
        assert bad_one.state is SlideState.FAILED
        assert bad_one.error is not None
        assert (bad_one.error.reason, bad_one.attempts) == (reason, 1)
        assert "slide-" not in bad_one.error.message
        assert str(tmp_path) not in bad_one.error.message


async def _altered(bench: Bench) -> ImageRecord:
    image = await bench.field()
    await bench.objects.put(f"slides/{LABORATORY}/{image.sha256}", coloured_file("GPR", 33, 33))
    return image


async def test_files_below_an_allowed_root_are_read_and_no_others(bench: Bench, tmp_path: Path) -> None:
    version = await bench.publish()
    root = tmp_path / "scans"
    root.mkdir()
    (root / "a.png").write_bytes(coloured_file("GPR"))
    (tmp_path / "b.png").write_bytes(coloured_file("GPR"))
    uris = [str(root / "a.png"), str(root / ".." / "b.png"), "file:///etc/passwd"]
    await bench.submit([ImageRecord(uri=uri) for uri in uris], version)
    async with bench.worker(allowed_roots=(str(root),)):
        outcomes = await bench.ended()
    reasons = [outcomes[index].error and outcomes[index].error.reason for index in range(3)]
    assert reasons == [None, "REFERENCE_DENIED", "REFERENCE_DENIED"]


async def test_I2_an_outcome_that_is_durable_already_is_the_result(bench: Bench) -> None:
    version = await bench.publish()
    await bench.submit([await bench.field()], version)
    async with bench.worker(children=1):
        first = (await bench.ended())[0]
        # The queue was lost after the outcome was written: the slide comes again.
        await bench.redis.flushall()
        await bench.enqueue("b1", [0], version)
        again = (await bench.ended())[0]
    assert again == first


async def test_the_time_of_a_slide_is_told_step_by_step_and_adds_up(bench: Bench) -> None:
    version = await bench.publish()
    await bench.submit([await bench.field() for _ in range(6)], version)
    async with bench.worker(children=1) as worker:
        await bench.ended()

        def told(stage: str, what: str) -> float:
            name = f"gramserve_slide_stage_seconds_{what}"
            return worker.metrics.registry.get_sample_value(name, {"stage": stage}) or 0.0

        steps = ["load", "fetch", "decode", "tile", "infer", "aggregate"]
        assert [told(step, "count") for step in steps] == [6] * 6
        assert all(told(step, "sum") > 0 for step in steps)
        # Slides wait for each other in the child, which is in "run" and in none of the steps.
        assert sum(told(step, "sum") for step in steps) <= told("run", "sum")
