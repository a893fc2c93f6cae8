"""Images as bytes: fields as a child decodes them, and files that could be whole slides."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from gramserve.errors import SlideFailed
from gramserve.images.decode import decode, use_one_thread
from gramserve.images.limits import ImageLimits
from gramserve.images.open import ReferenceOpener
from gramserve.runtime.preprocess import tile_batches
from gramserve.samples.pyramid import painter, write_pyramid
from gramserve.store.manifest import Preprocessing
from gramserve.store.objects import open_store
from gramserve.store.records import ImageRecord
from inference_svc.pictures import Pictures
from tests.fuzz.dicom import dicom_file
from tests.fuzz.target import Run, Target
from tests.images.files import encode, picture, png_bomb, tiff

LIMITS = ImageLimits(max_bytes=1 << 20, max_pixels=4_000_000, min_px=16)
CONTRACT = Preprocessing(input_px=32, tiling="grid", tile_px=64, max_single_px=64, min_px=16)
MOST_BATCHES = 16


@contextmanager
def decoding() -> Iterator[Run]:
    use_one_thread()

    def run(data: bytes) -> None:
        for reduction in (1, 4):
            try:
                pixels = decode(data, LIMITS, reduction)  # type: ignore[arg-type]
            except SlideFailed:
                continue
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3

    yield run


@contextmanager
def opening() -> Iterator[Run]:
    """As a child does: bytes in a file, told apart, opened, planned, and some tiles read."""
    use_one_thread()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "image"
        opener = ReferenceOpener(
            open_store(str(Path(folder) / "store")),
            allowed_roots=[Path(folder)],
            max_bytes=LIMITS.max_bytes,
            max_slide_bytes=1 << 24,
        )
        pictures = Pictures(opener, LIMITS)
        image = ImageRecord(uri=str(path))

        def run(data: bytes) -> None:
            path.write_bytes(data)
            try:
                given = pictures.of("lab", [image], CONTRACT, {"fetch": 0.0, "decode": 0.0})
                for _ in itertools.islice(tile_batches(given, CONTRACT, 4), MOST_BATCHES):
                    pass
                given.close()  # type: ignore[attr-defined]
            except SlideFailed:
                pass

        yield run
        assert len(list(Path("/proc/self/fd").iterdir())) < 200, "files are left open"


def fields() -> list[bytes]:
    rgb = picture(40, 32)
    gray = rgb[:, :, :1]
    return [
        encode(rgb, "JPEG"),
        encode(rgb, "JPEG", progressive=True, quality=30),
        encode(Image.fromarray(rgb).convert("L"), "JPEG"),
        encode(rgb, "PNG"),
        encode(Image.fromarray(rgb).convert("P"), "PNG"),
        encode(Image.fromarray(rgb).convert("RGBA"), "PNG"),
        encode(rgb, "TIFF", compression="tiff_lzw"),
        encode(rgb, "TIFF", compression="tiff_adobe_deflate"),
        tiff(rgb),
        tiff(rgb, order=">"),
        tiff(rgb, big=True),
        tiff(rgb, tile=16),
        tiff(rgb, planar=2, compression=8),
        tiff(gray),
        png_bomb(),
    ]


def slides() -> list[bytes]:
    pixels = picture(600, 400)
    found = [tiff(picture(64, 48), tile=16), tiff(picture(64, 48), tile=16, big=True)]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder) / "slide.tif"
        for description in ("", "Aperio Image Library v12.0.15\r\n600x400|AppMag = 40|MPP = 0.2500"):
            write_pyramid(path, 600, 400, painter(pixels), downsamples=(1, 4), description=description)
            found.append(path.read_bytes())
    found += [dicom_file(), dicom_file(kind=("ORIGINAL", "PRIMARY", "LABEL", "NONE"))]
    return found


IMAGES = Target(decoding, fields, 16_384)
SLIDES = Target(opening, slides)
