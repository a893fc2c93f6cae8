"""Whole slides: the right level, no bare glass, no label, little memory, and a typed refusal of what is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest

from gramserve.errors import Reason, SlideFailed
from gramserve.images.limits import ImageLimits
from gramserve.images.ome import ome_mpp
from gramserve.images.open import ReferenceOpener
from gramserve.images.slidefile import SlideFile
from gramserve.images.tiles import Box, tile_boxes
from gramserve.images.wholeslide import WholeSlide
from gramserve.images.wholeslide_grid import Plan
from gramserve.images.wholeslide_open import open_tiff
from gramserve.samples.pyramid import painter, write_pyramid
from gramserve.store.manifest import Preprocessing
from gramserve.store.objects import open_store
from gramserve.store.records import ImageRecord
from inference_svc.pictures import Pictures
from tests.handles import open_below
from tests.images.files import picture, real_path

GLASS = (238, 240, 236)
APERIO = "Aperio Image Library v12.0.15\r\n1024x768|AppMag = 40|MPP = 0.2500"


def contract(tile_px: int = 128, input_px: int = 64, mpp: float | None = None) -> Preprocessing:
    return Preprocessing(
        input_px=input_px, tiling="grid", tile_px=tile_px, max_single_px=tile_px, min_px=8, mpp=mpp
    )  # fmt: skip


def glass(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), GLASS, np.uint8)


def slide_of(path: Path) -> WholeSlide:
    slide = open_tiff(SlideFile.at(path), ImageLimits(min_px=8))
    assert slide is not None
    return slide


def written(folder: Path, pixels: np.ndarray, **options: object) -> WholeSlide:
    path = folder / "slide.tif"
    write_pyramid(path, pixels.shape[1], pixels.shape[0], painter(pixels), **options)
    return slide_of(path)


def pictures(folder: Path, *paths: Path) -> list[tuple[int, int, int]]:
    """Opens images as a worker's child does: the width, height and number of images of each picture."""
    opener = ReferenceOpener(
        open_store(str(folder / "store")),
        allowed_roots=[path.parent for path in paths],
        max_bytes=1 << 20,
        max_slide_bytes=1 << 30,
    )
    images = [ImageRecord(uri=str(path)) for path in paths]
    found = Pictures(opener, ImageLimits(min_px=8)).of("lab", images, contract(), {"fetch": 0.0, "decode": 0.0})
    return [(p.width, p.height, p.images if isinstance(p, WholeSlide) else 0) for p in found]


def refusal(folder: Path, *paths: Path) -> Reason:
    with pytest.raises(SlideFailed) as failed:
        pictures(folder, *paths)
    assert not any(part in failed.value.message for path in paths for part in path.parts[1:])
    return failed.value.reason


# Which pixels are read.


def test_tiles_are_those_of_a_field_of_the_same_size_and_show_its_pixels(tmp_path):
    pixels = picture(700, 500)
    slide = written(tmp_path, pixels)
    crops = dict(slide.crops(contract(128, 128)))
    assert set(crops) == set(tile_boxes(700, 500, contract(128, 128)))
    for box, crop in crops.items():
        original = pixels[box.y : box.y + box.height, box.x : box.x + box.width]
        assert np.abs(crop.astype(int) - original).mean() < 6


def test_the_level_read_is_the_coarsest_that_has_as_many_pixels_as_the_model_wants(tmp_path):
    slide = written(tmp_path, picture(1600, 1200))
    sizes = {
        tile_px: {crop.shape for _, crop in slide.crops(contract(tile_px, 64))} for tile_px in (64, 127, 128, 400, 600)
    }
    assert sizes == {
        64: {(64, 64, 3)},
        127: {(64, 64, 3)},
        128: {(64, 64, 3)},
        400: {(100, 100, 3)},
        600: {(75, 75, 3)},
    }


def test_a_tile_covers_the_microns_that_the_model_was_made_for(tmp_path):
    slide = written(tmp_path, picture(1600, 1200), mpp=0.25)
    assert slide.mpp == pytest.approx(0.25)
    assert {box.width for box, _ in slide.crops(contract(100, 64, mpp=0.5))} == {200}
    assert {box.width for box, _ in slide.crops(contract(100, 64, mpp=0.125))} == {50}
    assert {box.width for box, _ in slide.crops(contract(100, 64))} == {100}


def test_microns_per_pixel_that_no_microscope_has_are_not_believed(tmp_path):
    slide = written(tmp_path, picture(600, 400), mpp=352.8)
    assert slide.mpp is None
    assert {box.width for box, _ in slide.crops(contract(100, 64, mpp=0.5))} == {100}


def test_an_ome_tiff_says_its_microns_per_pixel_in_its_description(tmp_path):
    ome = '<OME xmlns="x"><Image><Pixels ID="P" SizeX="600" PhysicalSizeX="{}" PhysicalSizeXUnit="{}"/></Image></OME>'
    assert written(tmp_path, picture(600, 400), mpp=352.8, description=ome.format("0.22", "um")).mpp == 0.22
    assert ome_mpp(ome.format("220", "nm")) == pytest.approx(0.22)
    assert ome_mpp(ome.format("0.22", "parsec")) is None
    assert ome_mpp(ome.format("many", "um")) is None
    assert ome_mpp("Aperio PhysicalSizeX") is None


# Glass.


def test_bare_glass_is_left_out_and_the_smallest_stain_is_not(tmp_path):
    pixels = glass(2048, 2048)
    pixels[300:700, 300:700] = picture(400, 400)
    pixels[1500:1506, 1700:1718] = (90, 30, 120)  # one rod of 1.5 x 4.5 microns
    noise = np.random.default_rng(0).normal(0, 2, pixels.shape)
    slide = written(tmp_path, np.clip(pixels + noise, 0, 255).astype(np.uint8))
    boxes = {box for box, _ in slide.crops(contract(256, 128))}
    assert len(boxes) == 5
    assert Box(1536, 1280, 256, 256) in boxes


def test_without_an_overview_tiles_are_judged_once_they_were_read(tmp_path):
    pixels = glass(1024, 1024)
    pixels[600:606, 700:718] = (90, 30, 120)
    slide = written(tmp_path, pixels, downsamples=(1,), description=APERIO)
    assert slide.plan(contract(128, 128)).tiles == 64
    assert [box for box, _ in slide.crops(contract(128, 128))] == [Box(640, 512, 128, 128)]


@pytest.mark.parametrize(("mpp", "tile_px"), [(0.25, 512), (0.5, 256)])
def test_without_an_overview_a_single_rod_on_a_large_tile_is_kept(tmp_path, mpp, tile_px):
    pixels = glass(1024, 1024)
    height, width = round(4.5 / mpp), round(1.5 / mpp)
    pixels[700 : 700 + height, 300 : 300 + width] = (200, 90, 130)
    slide = written(tmp_path, pixels, downsamples=(1,), description=APERIO.replace("0.25", str(mpp)))
    boxes = [box for box, _ in slide.crops(contract(tile_px, 224, mpp=mpp))]
    corner = tile_px * (300 // tile_px), tile_px * (700 // tile_px)
    assert [(box.x, box.y) for box in boxes] == [corner]


def test_a_slide_stained_all_over_has_no_glass_and_loses_no_tile(tmp_path):
    pixels = np.full((1024, 1024, 3), (215, 150, 190), np.uint8)
    assert len(list(written(tmp_path, pixels).crops(contract(128, 64)))) == 64


def test_a_slide_of_nothing_but_glass_has_no_tiles(tmp_path):
    assert list(written(tmp_path, glass(1024, 1024)).crops(contract(128, 64))) == []


# Parts.


@pytest.mark.parametrize("parts", [1, 2, 3, 7, 50])
def test_parts_in_order_are_the_whole_with_the_same_pixels(tmp_path, parts):
    pixels = glass(3000, 2000)
    pixels[200:1500, 100:2700] = picture(2600, 1300)
    slide = written(tmp_path, pixels)
    rules = contract(64, 64)
    plan = Plan.from_bytes(slide.plan(rules).to_bytes())
    whole = list(slide.crops(rules))
    apart = [list(slide.crops(rules, plan, (number, parts))) for number in range(parts)]
    assert [box for part in apart for box, _ in part] == [box for box, _ in whole]
    for (_, crop), (_, again) in zip(whole, (one for part in apart for one in part), strict=True):
        assert np.array_equal(crop, again)
    if parts <= 3:
        assert max(map(len, apart)) < 1.5 * len(whole) / parts + 800


# What is never read.


def test_label_and_macro_are_never_read(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise AssertionError("an associated image was asked for")

    for name in ("read_associated_image", "get_associated_image_names", "get_associated_image_dimensions"):
        monkeypatch.setattr(openslide.lowlevel, name, fail)
    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(fail))
    label = np.zeros((64, 64, 3), np.uint8)
    pages = [(f"Aperio\r\n{name} 64x64", label) for name in ("thumbnail", "label", "macro")]
    slide = written(tmp_path, picture(1024, 768), description=APERIO, pages=pages)
    crops = list(slide.crops(contract(128, 64)))
    assert len(crops) == 48
    assert all(crop.any() for _, crop in crops)


def test_a_dicom_label_is_no_slide_and_beside_its_slide_it_is_passed_over(tmp_path):
    volume, thumbnail = real_path("wsi/boxes_0.dcm"), real_path("wsi/boxes_1.dcm")
    assert refusal(tmp_path, thumbnail) is Reason.NOT_A_SLIDE
    assert pictures(tmp_path, volume, thumbnail) == [(16, 16, 2)]


# Memory.

_HUGE = """
import resource, sys
from pathlib import Path
from tests.images.test_wholeslide import contract, slide_of
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
slide, rules = slide_of(Path(sys.argv[1])), contract(512, 224)
plan = slide.plan(rules)
count = sum(1 for _ in slide.crops(rules, plan))
print(plan.grid.rows * plan.grid.columns, count, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_slide_of_100_000_by_100_000_pixels_is_read_in_little_memory(tmp_path):
    tile, empty = picture(256, 256), glass(256, 256)
    downsamples = (1, 4, 16)

    def paint(level: int, column: int, row: int) -> np.ndarray:
        edge = 16 // downsamples[level]
        return tile if column // edge == 10 and row // edge in {4, 9} else empty

    write_pyramid(tmp_path / "huge.tif", 100_000, 100_000, paint, downsamples=downsamples)
    done = subprocess.run(
        [sys.executable, "-c", _HUGE, str(tmp_path / "huge.tif")],
        check=False,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    cells, tiles, grown_mib = map(int, done.stdout.split())
    assert cells == 196 * 196
    assert 128 <= tiles <= 300
    assert grown_mib < 300


def test_a_slide_of_more_tiles_than_anyone_can_read_is_refused_before_it_is_read(tmp_path):
    slide = written(tmp_path, picture(3000, 3000))
    with pytest.raises(SlideFailed) as failed:
        slide.plan(contract(2, 2))
    assert failed.value.reason is Reason.IMAGE_TOO_LARGE


# What is a slide.


def test_a_file_is_told_by_its_content_not_by_its_name(tmp_path):
    pixels = picture(600, 400)
    write_pyramid(tmp_path / "pyramid.jpg", 600, 400, painter(pixels))
    write_pyramid(tmp_path / "tiled field.svs", 600, 400, painter(pixels), downsamples=(1,))
    assert pictures(tmp_path, tmp_path / "pyramid.jpg", tmp_path / "tiled field.svs") == [(600, 400, 1), (600, 400, 0)]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("small.svs", (16, 16, 1)),
        ("boxes.tiff", (300, 250, 1)),
        ("boxes_0.dcm", (16, 16, 1)),
        ("sm_image.dcm", (50, 50, 1)),
        ("sm_image_jpegls.dcm", (50, 50, 1)),
    ],
)
def test_real_slides_are_opened(tmp_path, name, found):
    assert pictures(tmp_path, real_path(f"wsi/{name}")) == [found]


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["unopenable.tiff"], Reason.IMAGE_TOO_SMALL),
        (["ct_image.dcm"], Reason.NOT_A_SLIDE),
        (["boxes_0.dcm", "ct_image.dcm"], Reason.NOT_A_SLIDE),
    ],
)
def test_what_is_no_slide_is_refused_by_name(tmp_path, names, reason):
    assert refusal(tmp_path, *(real_path(f"wsi/{name}") for name in names)) is reason


def test_a_slide_that_opens_but_cannot_be_read_says_so():
    with pytest.raises(SlideFailed) as failed:
        list(slide_of(real_path("wsi/unreadable.svs")).crops(contract(16, 16)))
    assert failed.value.reason is Reason.SLIDE_UNREADABLE
    assert not failed.value.retryable


def test_a_cut_off_slide_says_so(tmp_path):
    write_pyramid(tmp_path / "whole.svs", 1024, 768, painter(picture(1024, 768)), description=APERIO)
    data = (tmp_path / "whole.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(data[: len(data) // 2])
    assert refusal(tmp_path, tmp_path / "cut.svs") in {Reason.SLIDE_UNREADABLE, Reason.CORRUPT_IMAGE}


def test_a_cut_off_dicom_file_says_so(tmp_path):
    data = real_path("wsi/sm_image_jpegls.dcm").read_bytes()
    (tmp_path / "cut.dcm").write_bytes(data[:-900])
    assert refusal(tmp_path, tmp_path / "cut.dcm") is Reason.SLIDE_UNREADABLE
    (tmp_path / "head.dcm").write_bytes(data[:400])
    assert refusal(tmp_path, tmp_path / "head.dcm") is Reason.CORRUPT_IMAGE


def test_a_slide_over_the_limit_is_too_large_and_nothing_stays_open(tmp_path):
    (tmp_path / "big.tif").write_bytes(b"II*\0")
    with (tmp_path / "big.tif").open("r+b") as file:
        file.truncate((1 << 30) + 1)  # no byte of it takes room
    write_pyramid(tmp_path / "slide.tif", 600, 400, painter(picture(600, 400)))
    assert refusal(tmp_path, tmp_path / "big.tif") is Reason.IMAGE_TOO_LARGE
    assert pictures(tmp_path, tmp_path / "slide.tif") == [(600, 400, 1)]
    assert open_below(tmp_path) == []
