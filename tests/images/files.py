"""Image files for tests, written by Pillow or by hand where Pillow cannot write what cameras do."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image


def picture(width: int = 100, height: int = 80, seed: int = 0) -> NDArray[np.uint8]:
    """A smooth colourful RGB picture."""
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def encode(image: Image.Image | NDArray[Any], file_format: str, **options: Any) -> bytes:
    """The bytes that Pillow writes."""
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, file_format, **options)
    return file.getvalue()


def as_rgb(data: bytes) -> NDArray[np.uint8]:
    """What Pillow reads."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A complete little PNG whose header promises a huge picture."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


def tiff(
    pixels: NDArray[Any],
    *,
    order: str = "<",
    big: bool = False,
    tile: int = 0,
    planar: int = 1,
    compression: int = 1,
    photometric: int | None = None,
    tags: dict[int, list[int]] | None = None,
) -> bytes:
    """A one-page TIFF of `pixels` [H, W, C], in strips of 16 rows or tiles of `tile` pixels; `tags` overrides tags."""
    height, width, channels = pixels.shape
    pieces = []
    for plane in [pixels] if planar == 1 else [pixels[:, :, c : c + 1] for c in range(channels)]:
        if tile:
            padded = np.zeros((-(-height // tile) * tile, -(-width // tile) * tile, plane.shape[2]), pixels.dtype)
            padded[:height, :width] = plane
            corners = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
            pieces += [padded[y : y + tile, x : x + tile].tobytes() for y, x in corners]
        else:
            pieces += [plane[y : y + 16].tobytes() for y in range(0, height, 16)]
    if compression == 8:
        pieces = [zlib.compress(piece) for piece in pieces]
    start = 16 if big else 8
    offsets = [start + sum(map(len, pieces[:n])) for n in range(len(pieces))]
    values = {
        256: [width],
        257: [height],
        258: [pixels.dtype.itemsize * 8] * channels,
        259: [compression],
        262: [photometric if photometric is not None else (2 if channels >= 3 else 1)],
        277: [channels],
        284: [planar],
    }
    lengths = [len(piece) for piece in pieces]
    values |= (
        {322: [tile], 323: [tile], 324: offsets, 325: lengths} if tile else {273: offsets, 278: [16], 279: lengths}
    )
    values |= tags or {}
    return _assemble(b"".join(pieces), values, order, big)


def _assemble(body: bytes, values: dict[int, list[int]], order: str, big: bool) -> bytes:
    word, kind = ("Q", 16) if big else ("I", 4)
    body += b"\0" * (-len(body) % 8)
    directory_at = (16 if big else 8) + len(body)
    entry = "HHQ" if big else "HHI"
    entry_size = struct.calcsize("<" + entry) + struct.calcsize(word)
    tail_at = directory_at + (8 if big else 2) + entry_size * len(values) + struct.calcsize(word)
    entries, tail = b"", b""
    for tag in sorted(values):
        short = tag in {258, 259, 262, 274, 277, 284, 338, 339}
        raw = struct.pack(f"{order}{len(values[tag])}{'H' if short else word}", *values[tag])
        entries += struct.pack(order + entry, tag, 3 if short else kind, len(values[tag]))
        if len(raw) <= struct.calcsize(word):
            entries += raw.ljust(struct.calcsize(word), b"\0")
        else:
            entries += struct.pack(order + word, tail_at + len(tail))
            tail += raw
    count = struct.pack(order + ("Q" if big else "H"), len(values))
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(order + "HHHQ", 43, 8, 0, directory_at) if big else struct.pack(order + "HI", 42, directory_at)
    return mark + head + body + count + entries + struct.pack(order + word, 0) + tail


def real_file(name: str) -> bytes:
    """A real file of the shared test data; skips the test where it is not there."""
    return real_path(name).read_bytes()


def real_path(name: str) -> Path:
    """Where a real file of the shared test data lies; skips the test where it is not there."""
    folder = Path(os.environ.get("GRAMSERVE_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    if not (folder / name).is_file():
        pytest.skip("the real test files are not on this machine")
    return (folder / name).resolve()
