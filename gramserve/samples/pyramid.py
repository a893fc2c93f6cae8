"""Whole slides to try things with: tiled JPEG pyramids in one BigTIFF file, as scanners write them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

TILE_PX: Final = 256

Paint: TypeAlias = Callable[[int, int, int], NDArray[np.uint8]]
"""The pixels, uint8 RGB [256, 256, 3], of the tile in a level, column and row."""

_SHORT, _LONG, _RATIONAL, _LONG8, _ASCII = 3, 4, 5, 16, 2
_YCBCR, _JPEG, _CENTIMETRES = 6, 7, 3


def write_pyramid(
    path: Path,
    width: int,
    height: int,
    paint: Paint,
    *,
    downsamples: Sequence[int] = (1, 2, 4, 8),
    mpp: float | None = 0.25,
    description: str = "",
    pages: Sequence[tuple[str, NDArray[np.uint8]]] = (),
) -> None:
    """A slide of `width` x `height` pixels at level 0, each level 1/`downsamples` of that, in tiles of 256 pixels.

    `paint` may give one and the same array for several tiles: the file holds it once, so that a huge slide can be a
    small file. `mpp`: microns per pixel; `description` of level 0 ("Aperio ..." makes it an SVS); `pages` are
    descriptions and pixels of more pictures (thumbnail, label, macro), stored behind level 0 as they are.
    """
    with path.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))
        link = 8  # where the place of the next directory is written
        for level, downsample in enumerate(downsamples):
            columns, rows = width // downsample, height // downsample
            offsets, lengths = _tiles(file, paint, level, -(-columns // TILE_PX), -(-rows // TILE_PX))
            tags = _picture(columns, rows, description if level == 0 else description and f"{description} level")
            tags |= {
                254: (_LONG, [1 if level else 0]),
                259: (_SHORT, [_JPEG]),
                262: (_SHORT, [_YCBCR]),
                322: (_LONG, [TILE_PX]),
                323: (_LONG, [TILE_PX]),
                324: (_LONG8, offsets),
                325: (_LONG8, lengths),
                530: (_SHORT, [2, 2]),
            }
            if mpp is not None:
                per_cm = round(1e4 / mpp / downsample * 1000)
                tags |= {282: (_RATIONAL, [per_cm, 1000]), 283: (_RATIONAL, [per_cm, 1000])}
                tags |= {296: (_SHORT, [_CENTIMETRES])}
            link = _directory(file, link, tags)
            for text, pixels in pages if level == 0 else ():
                at = file.tell()
                file.write(pixels.tobytes())
                tags = _picture(pixels.shape[1], pixels.shape[0], text)
                tags |= {259: (_SHORT, [1]), 262: (_SHORT, [2])}
                tags |= {273: (_LONG8, [at]), 278: (_LONG, [pixels.shape[0]]), 279: (_LONG8, [pixels.size])}
                link = _directory(file, link, tags)


def painter(picture: NDArray[np.uint8], downsamples: Sequence[int] = (1, 2, 4, 8)) -> Paint:
    """Paints the levels of `picture`, uint8 RGB [height, width, 3]; white beyond its edges."""
    height, width = picture.shape[:2]
    levels = [
        picture if d == 1 else cv2.resize(picture, (width // d, height // d), interpolation=cv2.INTER_AREA)
        for d in downsamples
    ]

    def paint(level: int, column: int, row: int) -> NDArray[np.uint8]:
        tile = np.full((TILE_PX, TILE_PX, 3), 255, np.uint8)
        x, y = column * TILE_PX, row * TILE_PX
        part = levels[level][y : y + TILE_PX, x : x + TILE_PX]
        tile[: part.shape[0], : part.shape[1]] = part
        return tile

    return paint


def _tiles(file: IO[bytes], paint: Paint, level: int, columns: int, rows: int) -> tuple[list[int], list[int]]:
    """Writes the tiles of a level, equal objects once; where each lies and how long it is."""
    known: dict[int, tuple[int, int]] = {}
    kept: list[NDArray[np.uint8]] = []  # an object that is gone could lend its id to another
    places = []
    for row in range(rows):
        for column in range(columns):
            pixels = paint(level, column, row)
            place = known.get(id(pixels))
            if place is None:
                bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
                data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
                place = known[id(pixels)] = (file.tell(), len(data))
                kept.append(pixels)
                file.write(data)
            places.append(place)
    return [at for at, _ in places], [length for _, length in places]


def _picture(width: int, height: int, description: str) -> dict[int, tuple[int, Sequence[int] | bytes]]:
    tags: dict[int, tuple[int, Sequence[int] | bytes]] = {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [8, 8, 8]),
        277: (_SHORT, [3]),
        284: (_SHORT, [1]),
    }
    return tags | ({270: (_ASCII, description.encode() + b"\0")} if description else {})


def _directory(file: IO[bytes], link: int, tags: dict[int, tuple[int, Sequence[int] | bytes]]) -> int:
    """Writes a directory, has `link` point to it and returns where the place of the next one is to be written."""
    entries = b""
    for tag, (kind, values) in sorted(tags.items()):
        if isinstance(values, bytes):
            count, raw = len(values), values
        else:
            code = {_SHORT: "H", _LONG: "I", _RATIONAL: "I", _LONG8: "Q"}[kind]
            count, raw = len(values), struct.pack(f"<{len(values)}{code}", *values)
        if kind == _RATIONAL:
            count //= 2
        if len(raw) > 8:
            at = file.tell()
            file.write(raw)
            raw = struct.pack("<Q", at)
        entries += struct.pack("<HHQ", tag, kind, count) + raw.ljust(8, b"\0")
    at = file.tell()
    file.write(struct.pack("<Q", len(tags)) + entries + bytes(8))
    following = file.tell() - 8
    file.seek(link)
    file.write(struct.pack("<Q", at))
    file.seek(0, 2)
    return following
