"""Whole slides become calls as fields do; those that cannot be read fail alone and say why."""

from __future__ import annotations

import fcntl
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gramserve.samples.pyramid import painter, write_pyramid
from gramserve.store.records import ImageRecord, SlideState
from tests.artifacts import COLOURS
from tests.images.files import real_path
from tests.inference.bench import Bench
from tests.waiting import until

GLASS = (238, 240, 236)


def stained(path: Path, label: str, *, width: int = 1536, height: int = 1152, mpp: float = 0.25) -> Path:
    """A slide of glass with one smear of the label's colour over the middle third of its width and height."""
    pixels = np.full((height, width, 3), GLASS, np.uint8)
    pixels[height // 3 : 2 * height // 3, width // 3 : 2 * width // 3] = COLOURS[label]
    write_pyramid(path, width, height, painter(pixels), mpp=mpp)
    return path


async def test_a_referenced_and_an_uploaded_slide_get_the_same_call(bench: Bench, tmp_path: Path) -> None:
    version = await bench.publish()
    path = stained(tmp_path / "slide.tif", "GPR")
    await bench.submit([ImageRecord(uri=str(path)), await bench.image(path.read_bytes())], version)
    async with bench.worker(children=1, allowed_roots=(str(tmp_path),)):
        outcomes = await bench.ended()
    calls = [outcomes[index].call for index in range(2)]
    assert calls[0] == calls[1] is not None
    finding = calls[0]["findings"][0]
    assert (finding["label"], calls[0]["outcome"]) == ("GPR", "ORGANISMS_SEEN")
    assert finding["tile_count"] == 48 <= calls[0]["tile_count"] <= 80
    for place in finding["evidence"]:
        assert 512 <= place["x"] < 1024
        assert 384 <= place["y"] < 768


async def test_fields_and_slides_of_one_specimen_are_called_together(bench: Bench, tmp_path: Path) -> None:
    version = await bench.publish()
    path = stained(tmp_path / "slide.tif", "GPR")
    images = [await bench.field("GNR"), ImageRecord(uri=str(path)), await bench.field("BACKGROUND")]
    await bench.submit([images], version)
    async with bench.worker(children=1, allowed_roots=(str(tmp_path),)):
        outcomes = await bench.ended()
    call = outcomes[0].call
    assert call is not None
    assert {finding["label"] for finding in call["findings"]} == {"GNR", "GPR"}
    rods = next(finding for finding in call["findings"] if finding["label"] == "GPR")
    assert {place["image_index"] for place in rods["evidence"]} == {1}


async def test_slides_that_cannot_be_read_fail_alone_and_say_why(bench: Bench) -> None:
    version = await bench.publish(min_px=8)
    folder = real_path("wsi/small.svs").parent
    wanted = {
        "small.svs": "",
        "unreadable.svs": "SLIDE_UNREADABLE",
        "unopenable.tiff": "IMAGE_TOO_SMALL",
        "ct_image.dcm": "NOT_A_SLIDE",
        "boxes_1.dcm": "NOT_A_SLIDE",
        "sm_image_jpegls.dcm": "",
        "boxes.tiff": "",
    }
    await bench.submit([ImageRecord(uri=str(folder / name)) for name in wanted], version)
    async with bench.worker(children=1, allowed_roots=(str(folder),), min_image_px=8):
        outcomes = await bench.ended()
    reasons = {name: outcomes[index].error for index, name in enumerate(wanted)}
    assert {name: error.reason if error else "" for name, error in reasons.items()} == wanted
    assert not any(str(folder) in (error.message if error else "") for error in reasons.values())


async def test_two_dicom_instances_of_a_series_are_one_slide(bench: Bench) -> None:
    version = await bench.publish(min_px=8)
    paths = [real_path(f"wsi/boxes_{number}.dcm") for number in (1, 0)]
    await bench.submit([[ImageRecord(uri=str(path)) for path in paths]], version)
    async with bench.worker(children=1, allowed_roots=(str(paths[0].parent),), min_image_px=8):
        outcomes = await bench.ended()
    assert outcomes[0].state is SlideState.SUCCEEDED
    assert outcomes[0].call is not None
    assert outcomes[0].call["tile_count"] == 1


@pytest.mark.parametrize(("limit", "state"), [(1 << 20, SlideState.SUCCEEDED), (1 << 10, SlideState.FAILED)])
async def test_a_slide_may_have_as_many_bytes_as_the_setting_says(
    bench: Bench, tmp_path: Path, limit: int, state: SlideState
) -> None:
    version = await bench.publish()
    path = stained(tmp_path / "slide.tif", "GNR")
    await bench.submit([ImageRecord(uri=str(path))], version)
    async with bench.worker(children=1, allowed_roots=(str(tmp_path),), max_slide_bytes=limit, max_image_bytes=1 << 10):
        outcomes = await bench.ended()
    assert outcomes[0].state is state
    assert state is SlideState.SUCCEEDED or outcomes[0].error.reason == "IMAGE_TOO_LARGE"


# Divided slides.


async def divided(bench: Bench, path: Path, **changes: int) -> tuple[dict[str, Any], list[int]]:
    """The call of one uploaded slide and the children that began it or a part of it."""
    version = await bench.publish()
    image = await bench.image(path.read_bytes())
    async with bench.worker(**changes) as worker:
        await until(lambda: worker.children.ready == changes["children"])
        await bench.submit([image], version)
        outcomes = await bench.ended()
    assert outcomes[0].state is SlideState.SUCCEEDED
    assert outcomes[0].call is not None
    return outcomes[0].call, bench.runs(image)


async def test_a_large_slide_is_divided_among_the_children_and_gets_the_call_of_an_undivided_one(
    bench: Bench, tmp_path: Path
) -> None:
    path = stained(tmp_path / "slide.tif", "GPC_CLUSTERS", width=6144, height=3072)
    whole, begun = await divided(bench, path, children=2)
    assert len(begun) == 1
    await bench.redis.flushall()
    apart = Bench(tmp_path / "apart", bench.redis_url)
    apart.folder.mkdir()
    try:
        call, _ = await divided(apart, path, children=2, shard_tiles=50)
    finally:
        await apart.close()
    assert call == whole
    assert call["findings"][0]["tile_count"] == 32 * 16


async def test_the_parts_of_a_slide_run_on_all_children(bench: Bench, tmp_path: Path) -> None:
    version = await bench.publish()
    image = await bench.image(stained(tmp_path / "slide.tif", "GNR", width=6144, height=3072).read_bytes())
    with (bench.folder / f"hold-part-{image.sha256}").open("w") as hold:
        fcntl.flock(hold, fcntl.LOCK_EX)
        async with bench.worker(children=2, shard_tiles=50) as worker:
            await until(lambda: worker.children.ready == 2)
            await bench.submit([image], version)
            await until(lambda: len(set(bench.runs(image)[1:])) == 2, what="each child has a part")
            fcntl.flock(hold, fcntl.LOCK_UN)
            outcomes = await bench.ended()
    call = outcomes[0].call
    assert call is not None
    assert len(bench.runs(image)) >= 1 + -(-call["tile_count"] // 50)


async def test_a_child_that_dies_with_a_part_is_one_crash_of_the_slide(bench: Bench, tmp_path: Path) -> None:
    version = await bench.publish()
    path = stained(tmp_path / "slide.tif", "GPR", width=6144, height=3072)
    image = await bench.image(path.read_bytes())
    (bench.folder / f"crash-once-part-{image.sha256}").touch()
    await bench.submit([image, await bench.field("GNR")], version)
    async with bench.worker(children=2, shard_tiles=50):
        outcomes = await bench.ended()
    assert [outcomes[index].state for index in range(2)] == [SlideState.SUCCEEDED] * 2
    assert [outcomes[index].attempts for index in range(2)] == [2, 1]
    assert outcomes[0].call is not None
    assert outcomes[0].call["findings"][0]["label"] == "GPR"


async def test_a_part_that_cannot_be_read_fails_the_slide_and_no_other(bench: Bench, tmp_path: Path) -> None:
    version = await bench.publish()
    path = stained(tmp_path / "slide.tif", "GPR", width=6144, height=3072)
    data = bytearray(path.read_bytes())
    tiles = [found.start() for found in re.finditer(rb"\xff\xd8\xff\xe0", data)]
    middle = tiles[24 * 12 + 12 * 3 + 6]  # level 1 is read: it comes second, 12 tiles in a row
    data[middle : middle + 40] = bytes(40)
    await bench.submit([await bench.image(bytes(data)), await bench.field("GNR")], version)
    async with bench.worker(children=2, shard_tiles=50):
        outcomes = await bench.ended()
        assert len(outcomes) == 2
    assert outcomes[0].error is not None
    assert outcomes[0].error.reason == "SLIDE_UNREADABLE"
    assert outcomes[1].state is SlideState.SUCCEEDED
