"""Images that are read, and read as they were written."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from gramserve.errors import Reason, SlideFailed
from gramserve.images.decode import decode, read_header, use_one_thread
from gramserve.images.field import Field
from gramserve.images.limits import ImageLimits
from gramserve.images.tiles import Box
from tests.images.files import as_rgb, encode, picture, png_chunk, real_file, tiff

LIMITS = ImageLimits(max_bytes=10_000_000, max_pixels=2_000_000, min_px=16)
RGB = picture()
GRAY = np.asarray(Image.fromarray(RGB).convert("L"))
GRAY_AS_RGB = np.repeat(GRAY[:, :, None], 3, axis=2)


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"subsampling": 0}, {"keep_rgb": True}],
    ids=str,
)
def test_a_jpeg_is_read_as_pillow_reads_it(options):
    data = encode(RGB, "JPEG", quality=95, **options)
    assert np.abs(decode(data, LIMITS).astype(int) - as_rgb(data)).max() <= 3


def test_a_gray_jpeg_is_expanded_to_rgb():
    data = encode(GRAY, "JPEG", quality=95)
    assert np.array_equal(decode(data, LIMITS), as_rgb(data))


@pytest.mark.parametrize("reduction", [2, 4, 8])
@pytest.mark.parametrize("size", [(100, 80), (101, 67), (33, 90)], ids=str)
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_decoded_at_a_reduced_scale_rounded_up_and_looks_the_same(reduction, size, progressive):
    image = picture(*size)
    data = encode(image, "JPEG", quality=95, progressive=progressive, subsampling=0)
    small = decode(data, LIMITS, reduction)
    assert small.shape == (-(-size[1] // reduction), -(-size[0] // reduction), 3)
    whole = [side // reduction for side in size]  # the last row and column may show less than a whole pixel
    exact = cv2.resize(image[: whole[1] * reduction, : whole[0] * reduction], whole, interpolation=cv2.INTER_AREA)
    assert np.abs(small[: whole[1], : whole[0]].astype(int) - exact).mean() < 4


@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_what_is_no_jpeg_is_decoded_in_full_whatever_is_asked_for(file_format):
    data = encode(RGB, file_format)
    assert np.array_equal(decode(data, LIMITS, 4), RGB)


def test_a_gray_jpeg_and_a_turned_one_are_reduced_as_they_are_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = encode(RGB, "JPEG", exif=exif), encode(RGB, "JPEG")
    assert np.array_equal(decode(turned, LIMITS, 2), decode(plain, LIMITS, 2))
    gray = decode(encode(GRAY, "JPEG"), LIMITS, 2)
    assert gray.shape == (40, 50, 3)
    assert np.array_equal(gray[:, :, 0], gray[:, :, 2])


def test_a_field_is_cut_by_places_in_its_full_size():
    exact = Field.whole(RGB)
    assert np.array_equal(exact.cut(Box(13, 7, 40, 40)), RGB[7:47, 13:53])
    small = Field(RGB[::4, ::4], 100, 80, 4)
    assert np.array_equal(small.cut(Box(40, 20, 40, 40)), small.pixels[5:15, 10:20])


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_every_place_of_a_reduced_field_can_be_cut_and_squares_stay_squares(reduction):
    for width, height in ((97, 61), (64, 64), (33, 50)):
        pixels = np.zeros((-(-height // reduction), -(-width // reduction), 3), np.uint8)
        field = Field(pixels, width, height, reduction)
        for edge in (16, 17, 31, 33):
            shapes = {
                field.cut(Box(x, y, edge, edge)).shape
                for x in range(width - edge + 1)
                for y in range(height - edge + 1)
            }
            assert len(shapes) == 1
            assert (shape := shapes.pop())[0] == shape[1] == (edge + reduction // 2) // reduction


def test_bytes_after_the_end_of_a_jpeg_are_ignored_as_cameras_put_previews_there():
    data = encode(RGB, "JPEG")
    assert np.array_equal(decode(data + b"trailer" * 100, LIMITS), decode(data, LIMITS))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_orientation_in_the_metadata_is_ignored_so_that_evidence_points_at_stored_pixels(file_format):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, plain = encode(RGB, file_format, exif=exif), encode(RGB, file_format)
    assert turned != plain
    assert np.array_equal(decode(turned, LIMITS), decode(plain, LIMITS))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA", "1"])
def test_a_png_is_read_exactly_and_its_transparency_is_dropped(mode):
    image = Image.fromarray(RGB)
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    if mode in {"RGBA", "LA"}:
        image.putalpha(Image.fromarray(GRAY))
    expected = np.asarray(image.convert("RGBA"))[:, :, :3]
    assert np.array_equal(decode(encode(image, "PNG"), LIMITS), expected)


def test_a_palette_png_with_a_transparent_colour_keeps_that_colour():
    image = Image.fromarray(RGB).quantize(64)
    assert np.array_equal(decode(encode(image, "PNG", transparency=3), LIMITS), np.asarray(image.convert("RGB")))


def test_a_gamma_chunk_changes_no_pixel():
    data = encode(RGB, "PNG")
    with_gamma = data[:33] + png_chunk(b"gAMA", (100_000).to_bytes(4, "big")) + data[33:]
    assert np.array_equal(decode(with_gamma, LIMITS), RGB)


def test_a_16_bit_png_is_scaled_to_8_bits_and_rounded():
    wide = np.random.default_rng(0).integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    wide[0, 0], wide[0, 1] = 0, 65535
    _, data = cv2.imencode(".png", wide[:, :, ::-1])
    assert np.array_equal(decode(data.tobytes(), LIMITS), np.round(wide / 257).astype(np.uint8))
    gray = encode(wide[:, :, 0].copy(), "PNG")
    assert np.array_equal(decode(gray, LIMITS)[:, :, 1], np.round(wide[:, :, 0] / 257).astype(np.uint8))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits", "jpeg"])
def test_a_tiff_is_read_as_pillow_reads_it(compression):
    data = encode(RGB, "TIFF", compression=compression)
    assert np.array_equal(decode(data, LIMITS), as_rgb(data))


@pytest.mark.parametrize(
    "layout",
    [
        {},
        {"tile": 32},
        {"planar": 2},
        {"order": ">"},
        {"big": True},
        {"big": True, "order": ">", "tile": 32, "compression": 8},
    ],
    ids=str,
)
def test_every_layout_of_a_tiff_gives_the_same_pixels(layout):
    assert np.array_equal(decode(tiff(RGB, **layout), LIMITS), RGB)


def test_gray_tiffs_are_read_in_both_polarities():
    assert np.array_equal(decode(tiff(GRAY[:, :, None], photometric=1), LIMITS), GRAY_AS_RGB)
    assert np.array_equal(decode(tiff(255 - GRAY[:, :, None], photometric=0), LIMITS), GRAY_AS_RGB)


def test_a_thumbnail_behind_the_first_page_of_a_tiff_is_no_second_page():
    data = encode(RGB, "TIFF", save_all=True, append_images=[_thumbnail()])
    assert np.array_equal(decode(data, LIMITS), RGB)


def _thumbnail() -> Image.Image:
    small = Image.fromarray(RGB).resize((50, 40))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    return small


def test_the_header_alone_tells_the_size():
    for data in (encode(RGB, "JPEG"), encode(RGB, "PNG"), encode(RGB, "TIFF")):
        header = read_header(data, LIMITS)
        assert (header.width, header.height) == (100, 80)


def test_a_decoding_process_uses_one_thread():
    before = cv2.getNumThreads(), cv2.utils.logging.getLogLevel()
    try:
        use_one_thread()
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before[0])
        cv2.utils.logging.setLogLevel(before[1])


@pytest.mark.parametrize("name", ["gram_2_22.jpg", "gram_5_38.jpg"])
def test_real_fields_are_read(name):
    data = real_file(f"fields/{name}")
    assert np.abs(decode(data, LIMITS).astype(int) - as_rgb(data)).max() <= 3


@pytest.mark.parametrize("kind", ["negbac", "negcoc", "posbac", "poscoc"])
def test_real_pure_cultures_are_read_exactly(kind):
    data = real_file(f"fields/pure_culture_{kind}.png")
    assert np.array_equal(decode(data, LIMITS), as_rgb(data))


@pytest.mark.parametrize("name", ["unopenable.tiff", "unreadable.svs", "boxes.tiff", "boxes_0.dcm", "ct_image.dcm"])
def test_real_files_that_are_no_field_fail_by_name(name):
    with pytest.raises(SlideFailed) as failed:
        decode(real_file(f"wsi/{name}"), ImageLimits(min_px=1))
    assert failed.value.reason in {Reason.UNSUPPORTED_FORMAT, Reason.UNSUPPORTED_PIXEL_FORMAT, Reason.CORRUPT_IMAGE}
    assert not failed.value.retryable
