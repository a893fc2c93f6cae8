"""Images that are refused, each by its name and before it costs anything."""

from __future__ import annotations

import resource
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gramserve.errors import Reason, SlideFailed
from gramserve.images.decode import decode
from gramserve.images.limits import ImageLimits
from tests.images.files import encode, picture, png_bomb, png_chunk, tiff

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=100_000, min_px=16)
RGB = picture()
JPEG, PNG, TIFF = encode(RGB, "JPEG"), encode(RGB, "PNG"), encode(RGB, "TIFF", compression="tiff_lzw")
WIDE = np.full((20, 30, 1), 4000, np.uint16)


def reason(data: bytes, limits: ImageLimits = LIMITS) -> Reason:
    with pytest.raises(SlideFailed) as failed:
        decode(data, limits)
    assert not failed.value.retryable
    return failed.value.reason


def test_an_empty_file_is_empty():
    assert reason(b"") is Reason.EMPTY_IMAGE


@pytest.mark.parametrize(
    "data", [b"not an image\n" * 9, b"\xff\xd8", b"BM" + bytes(60), b"GIF89a" + bytes(60), b"%PDF-1.7"]
)
def test_what_is_no_jpeg_png_or_tiff_is_an_unsupported_format(data):
    assert reason(data) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize(
    "data", [JPEG, encode(RGB, "JPEG", progressive=True), PNG, TIFF], ids=["jpeg", "progressive", "png", "tiff"]
)
def test_a_truncated_image_is_refused_and_not_read_in_half(data, share):
    assert reason(data[: int(len(data) * share)]) is Reason.CORRUPT_IMAGE


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_jpeg_or_png_without_its_last_bytes_is_refused(cut):
    assert reason(JPEG[:-cut]) is Reason.CORRUPT_IMAGE
    assert reason(PNG[:-cut]) is Reason.CORRUPT_IMAGE


def test_a_jpeg_preview_cannot_pass_for_the_end_of_a_truncated_picture():
    exif = Image.Exif()
    exif[0x9286] = encode(picture(40, 40), "JPEG")  # a whole JPEG inside the metadata
    data = encode(RGB, "JPEG", exif=exif)
    assert data.count(b"\xff\xd9") >= 2
    assert reason(data[:-2]) is Reason.CORRUPT_IMAGE


def test_a_changed_byte_in_a_png_is_found():
    for at in range(len(PNG) // 3, len(PNG), len(PNG) // 7):
        damaged = bytearray(PNG)
        damaged[at] ^= 0x10
        assert reason(bytes(damaged)) is Reason.CORRUPT_IMAGE


def test_a_decompression_bomb_costs_nothing():
    bombs = [
        png_bomb(),
        JPEG.replace(struct.pack(">HH", 80, 100), struct.pack(">HH", 65_500, 65_500), 1),
        tiff(RGB, tags={256: [60_000], 257: [60_000]}),
    ]
    tracemalloc.start()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for bomb in bombs:
        assert reason(bomb, ImageLimits()) is Reason.IMAGE_TOO_LARGE
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_a_header_that_promises_too_much_is_refused_even_when_the_rest_is_missing():
    assert reason(png_bomb()[:40]) is Reason.IMAGE_TOO_LARGE


def test_more_bytes_than_the_limit_are_refused_unread():
    assert reason(b"x" * 1001, ImageLimits(max_bytes=1000)) is Reason.IMAGE_TOO_LARGE


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF"])
def test_a_picture_of_one_pixel_is_too_small(file_format):
    assert reason(encode(RGB[:1, :1].copy(), file_format)) is Reason.IMAGE_TOO_SMALL
    assert reason(encode(RGB[:8].copy(), file_format)) is Reason.IMAGE_TOO_SMALL


@pytest.mark.parametrize(
    "data",
    [
        encode(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
        encode(Image.fromarray(RGB).convert("CMYK"), "TIFF"),
        tiff(WIDE),
        tiff(np.repeat(WIDE, 3, axis=2)),
        encode(np.zeros((20, 30), np.float32), "TIFF"),
        encode(np.zeros((20, 30), np.int32), "TIFF"),
        encode(Image.fromarray(RGB).convert("RGBA"), "TIFF"),
        encode(Image.fromarray(RGB).convert("1"), "TIFF"),
        encode(RGB, "TIFF", tiffinfo={274: 6}),
        tiff(RGB, photometric=8),
        JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc1\x00\x11\x0c", 1),
        JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1),
    ],
    ids=["cmyk-jpeg", "cmyk-tiff", "gray16-tiff", "rgb16-tiff", "float-tiff", "int32-tiff", "rgba-tiff", "1bit-tiff",
         "turned-tiff", "lab-tiff", "12bit-jpeg", "arithmetic-jpeg"],
)  # fmt: skip
def test_pixels_that_would_need_a_guess_are_refused_by_name(data):
    assert reason(data) is Reason.UNSUPPORTED_PIXEL_FORMAT


@pytest.mark.parametrize(
    "data",
    [
        encode(RGB, "TIFF", save_all=True, append_images=[Image.fromarray(RGB)]),
        tiff(RGB, compression=52_479),
        encode(RGB, "PNG", save_all=True, append_images=[Image.fromarray(255 - RGB)]),
    ],
    ids=["pages", "compression", "animation"],
)
def test_files_that_would_be_read_in_part_only_are_an_unsupported_format(data):
    assert reason(data) is Reason.UNSUPPORTED_FORMAT


@pytest.mark.parametrize(
    "tags",
    [
        {257: [0]},
        {273: [10**6] * 5},
        {273: [8]},
        {279: [1] * 5},
        {279: [0] * 5},
        {322: [0], 323: [0], 324: [8], 325: [100]},
        {322: [60_000], 323: [60_000], 324: [8], 325: [100]},
    ],
    ids=str,
)
def test_a_tiff_that_contradicts_itself_is_corrupt(tags):
    assert reason(tiff(RGB, tags=tags)) is Reason.CORRUPT_IMAGE


def test_a_jpeg_with_thousands_of_scans_is_refused_before_it_is_decoded():
    data = encode(RGB, "JPEG", progressive=True)
    last_scan = data[data.rindex(b"\xff\xda") : -2]
    assert reason(data[:-2] + last_scan * 200 + b"\xff\xd9") is Reason.CORRUPT_IMAGE


def test_a_jpeg_without_a_picture_is_corrupt():
    assert reason(b"\xff\xd8\xff\xd9") is Reason.CORRUPT_IMAGE
    assert reason(b"\xff\xd8\xff\xe0\x00\x01\xff\xd9") is Reason.CORRUPT_IMAGE


def test_a_png_without_pixels_or_header_is_corrupt():
    magic, end = b"\x89PNG\r\n\x1a\n", png_chunk(b"IEND", b"")
    assert reason(magic + end) is Reason.CORRUPT_IMAGE
    assert reason(PNG[:33] + end) is Reason.CORRUPT_IMAGE
    assert reason(PNG[:33] + PNG[8:]) is Reason.CORRUPT_IMAGE


def test_messages_name_the_numbers_and_no_file():
    with pytest.raises(SlideFailed, match="60000 x 60000 pixels; the limit is 100000"):
        decode(png_bomb(), LIMITS)


@settings(max_examples=150)
@given(
    st.sampled_from([JPEG, PNG, TIFF, tiff(RGB, tile=32), tiff(RGB, big=True)]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_files_are_read_or_refused_but_never_anything_else(data, changes, keep):
    damaged = bytearray(data)
    for at, value in changes:
        damaged[int(at * len(damaged))] = value
    damaged = damaged[: max(1, int(len(damaged) * keep))] if keep < 0.5 else damaged
    try:
        image = decode(bytes(damaged), LIMITS)
    except SlideFailed:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3


_SHORT_OF_MEMORY = """
import resource, sys
from gramserve.errors import SlideFailed
from gramserve.images.decode import decode, use_one_thread
from gramserve.images.limits import ImageLimits
use_one_thread()
data = sys.stdin.buffer.read()
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + 64 * 2**20, now + 64 * 2**20))
try:
    decode(data, ImageLimits())
except SlideFailed as failed:
    print(failed.reason, failed.retryable)
"""


def test_a_picture_that_does_not_fit_into_memory_is_no_corrupt_picture():
    data = encode(np.zeros((5000, 5000), np.uint8), "PNG", compress_level=1)
    answer = subprocess.run([sys.executable, "-c", _SHORT_OF_MEMORY], input=data, capture_output=True, check=True)
    assert answer.stdout.decode().split() == ["OUT_OF_MEMORY", "True"]
    assert not answer.stderr
