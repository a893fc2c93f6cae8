"""Pictures of the evidence: cut by a child that has given up network and files, and that may die."""

from __future__ import annotations

import asyncio
import base64
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest

from gramserve.night import pictures as module
from gramserve.night.facts import Place, Review
from gramserve.night.pictures import MOST_DEATHS, Pictures, evidence
from gramserve.samples.pyramid import painter, write_pyramid
from gramserve.store.objects import open_store
from gramserve.store.records import ImageRecord, Priority
from tests.artifacts import COLOURS, coloured, coloured_file
from tests.images.files import real_path
from tests.night.nights import NightStore, call


def review(*images: ImageRecord, image: int = 0, x: int = 0, width: int = 64) -> Review:
    said = call(image=image)
    said["findings"][0]["evidence"][0] |= {"x": x, "width": width, "height": width}
    return Review(Place("north", "b-1", 0, "s-1"), Priority.ROUTINE, said, images)


def pixels(uri: str | None) -> np.ndarray:
    """uint8 RGB of a data URI."""
    assert uri is not None
    kind, _, data = uri.partition(",")
    assert kind == "data:image/jpeg;base64"
    return np.asarray(cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB))


def test_each_finding_and_suspicion_is_shown_before_a_second_tile_of_one() -> None:
    def tiles(*columns: int) -> list[dict[str, float]]:
        return [{"image_index": 0, "x": x, "y": 0, "width": 9, "height": 9, "probability": 0.5} for x in columns]

    said = {
        "findings": [{"evidence": tiles(1, 2, 3)}, {"evidence": tiles(4, 1)}],
        "suspected": [{"evidence": tiles(7)}],
    }
    assert [tile.x for tile in evidence(said)] == [1, 4, 7, 2]


async def test_a_tile_is_cut_from_the_image_that_the_evidence_names(store: NightStore, store_url: str) -> None:
    two = np.concatenate([coloured("GPR", 64, 64), coloured("GNR", 64, 64)], axis=1)
    done, data = cv2.imencode(".png", np.ascontiguousarray(two[:, :, ::-1]))
    assert done
    images = (await store.image(coloured_file("BACKGROUND")), await store.image(data.tobytes()))
    async with Pictures(store_url) as pictures:
        (tile,) = await pictures.of(review(*images, image=1, x=64))
    shown = pixels(tile)
    assert shown.shape == (64, 64, 3)
    assert np.abs(shown.reshape(-1, 3).mean(axis=0) - COLOURS["GNR"]).max() < 4


async def test_a_large_tile_becomes_a_thumbnail(store: NightStore, store_url: str) -> None:
    image = await store.image(coloured_file("GPR", 900, 600, extension="jpg"))
    wanted = review(image, width=600)
    async with Pictures(store_url) as pictures:
        (tile,) = await pictures.of(wanted)
    assert pixels(tile).shape == (128, 128, 3)


async def test_a_tile_is_cut_from_a_whole_slide(store_url: str, tmp_path: Path) -> None:
    pixels_of = np.concatenate([coloured("GPR", 512, 1024), coloured("GNR", 512, 1024)], axis=1)
    write_pyramid(tmp_path / "slide.tif", 1024, 1024, painter(pixels_of))
    wanted = review(ImageRecord(uri=f"{tmp_path}/slide.tif"), x=512, width=512)
    async with Pictures(store_url, [str(tmp_path)]) as pictures:
        (tile,) = await pictures.of(wanted)
    shown = pixels(tile)
    assert shown.shape == (128, 128, 3)
    assert np.abs(shown.reshape(-1, 3).mean(axis=0) - COLOURS["GNR"]).max() < 4


async def test_a_tile_is_cut_from_the_file_of_a_dicom_series_that_holds_the_slide(store_url: str) -> None:
    thumbnail, volume = real_path("wsi/boxes_1.dcm"), real_path("wsi/boxes_0.dcm")
    files = tuple(ImageRecord(uri=str(path)) for path in (thumbnail, volume))
    async with Pictures(store_url, [str(volume.parent)]) as pictures:
        assert await pictures.of(review(*files, image=1, width=16)) != [None]


@pytest.mark.parametrize(
    "unreadable",
    [
        lambda good: ImageRecord(sha256="0" * 64),
        lambda good: ImageRecord(uri="/etc/hostname"),
        lambda good: ImageRecord(sha256=good.sha256, content_sha256="1" * 64),
    ],
    ids=["no such image", "a file outside of the roots", "another checksum"],
)
async def test_what_cannot_be_read_has_no_picture_and_the_others_have(
    store: NightStore, store_url: str, unreadable: Callable[[ImageRecord], ImageRecord]
) -> None:
    good = await store.image(coloured_file("GNR"))
    async with Pictures(store_url) as pictures:
        assert await pictures.of(review(unreadable(good))) == [None]
        assert await pictures.of(review(good, x=1)) == [None]  # it would lead out of the image
        assert await pictures.of(review(good, image=5)) == [None]
        assert await pictures.of(review(good)) != [None]


async def test_a_picture_comes_from_a_file_below_an_allowed_root(store_url: str, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "1.png").write_bytes(coloured_file("GNR"))
    wanted = review(ImageRecord(uri=f"file://{tmp_path}/scans/1.png"))
    async with Pictures(store_url, [str(tmp_path / "scans")]) as pictures:
        assert await pictures.of(wanted) != [None]
    async with Pictures(store_url, [str(tmp_path / "others")]) as pictures:
        assert await pictures.of(wanted) == [None]


async def test_with_a_store_on_S3_the_child_has_neither_network_nor_keys_and_nothing_is_left(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    store = NightStore(open_store(s3_url))
    field = await store.image(coloured_file("GNR"))
    series = [await store.image(real_path(f"wsi/boxes_{number}.dcm").read_bytes()) for number in (1, 0)]
    async with Pictures(s3_url) as pictures:
        (tile,) = await pictures.of(review(field))
        assert np.abs(pixels(tile).reshape(-1, 3).mean(axis=0) - COLOURS["GNR"]).max() < 4
        assert await pictures.of(review(*series, image=1, width=16)) != [None]
        assert await pictures.of(review(ImageRecord(sha256="0" * 64))) == [None]
        running = child()
        assert running is not None
        assert not [name for name in running.environ() if name.startswith("AWS_")]
        assert "Seccomp:\t2" in Path(f"/proc/{running.pid}/status").read_text()
        assert len([path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]) <= len(series)
    assert list((tmp_path / "tmp").iterdir()) == []


def child() -> psutil.Process | None:
    found = [p for p in psutil.Process().children() if "gramserve.night.child" in " ".join(p.cmdline())]
    return found[0] if found else None


async def test_the_child_that_decodes_has_no_network_and_no_secrets_and_ends_with_the_report(
    store: NightStore, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAMSERVE_REDIS_URL", "redis://:secret@127.0.0.1/0")
    image = await store.image(coloured_file("GNR"))
    async with Pictures(store_url) as pictures:
        await pictures.of(review(image))
        running = child()
        assert running is not None
        status = Path(f"/proc/{running.pid}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "NoNewPrivs:\t1" in status
        assert "GRAMSERVE_REDIS_URL" not in running.environ()
    assert not running.is_running()
    assert child() is None


async def test_a_slide_that_kills_the_child_has_no_picture_and_the_next_has(store: NightStore, store_url: str) -> None:
    image = await store.image(coloured_file("GNR"))
    async with Pictures(store_url) as pictures:
        assert await pictures.of(review(image)) != [None]
        running = child()
        assert running is not None
        running.suspend()
        asking = asyncio.create_task(pictures.of(review(image)))
        await asyncio.sleep(0)
        running.kill()
        assert await asking == [None]
        assert await pictures.of(review(image)) != [None]


async def test_a_slide_that_takes_too_long_has_no_picture_and_its_child_is_ended(
    store: NightStore, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await store.image(coloured_file("GNR"))
    async with Pictures(store_url) as pictures:
        assert await pictures.of(review(image)) != [None]
        running = child()
        assert running is not None
        running.suspend()
        monkeypatch.setattr(module, "SLIDE_S", 0.05)
        assert await pictures.of(review(image)) == [None]
        assert not running.is_running()


async def test_after_three_deaths_no_other_slide_is_tried(
    store: NightStore, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = await store.image(coloured_file("GNR"))
    started = []
    pictures = Pictures(store_url)
    begin = pictures._start

    async def counted() -> object:
        process = await begin()
        process.kill()
        started.append(process)
        return process

    monkeypatch.setattr(pictures, "_start", counted)
    async with pictures:
        for _ in range(MOST_DEATHS + 2):
            assert await pictures.of(review(image)) == [None]
    assert len(started) == MOST_DEATHS


async def test_without_a_decoder_the_report_has_no_pictures(
    store: NightStore, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available", lambda: False)
    image = await store.image(coloured_file("GNR"))
    async with Pictures(store_url) as pictures:
        assert await pictures.of(review(image)) == [None]
        assert child() is None
