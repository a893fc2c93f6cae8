"""The structure of a TIFF file (classic or big): its size, its kind and whether its pixels are all there."""

from __future__ import annotations

import struct
from typing import Final

from gramserve.images.header import Header
from gramserve.images.limits import ImageLimits
from gramserve.images.refuse import corrupt, unsupported_format, unsupported_pixels

MAGICS: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIPS, _ORIENTATION, _SAMPLES, _STRIP_BYTES, _SUBFILE = 273, 274, 277, 279, 254
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SAMPLE_FORMAT = 322, 323, 324, 325, 339
_KEPT = {
    *(_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _STRIPS, _ORIENTATION, _SAMPLES, _STRIP_BYTES, _SUBFILE),
    *(_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, _SAMPLE_FORMAT),
}
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}  # the unsigned integers; nothing that is kept has another type
_COMPRESSIONS = {1: "none", 5: "LZW", 7: "JPEG", 8: "deflate", 32773: "PackBits", 32946: "deflate"}
_GRAY_INVERTED, _GRAY, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_SEPARATED = 5
_MAX_VALUES = 1 << 20  # strips or tiles of a picture


def read_header(data: bytes, limits: ImageLimits) -> Header:
    """The header of a one-page TIFF within `limits` whose strips or tiles all lie inside the file.

    Raises SlideFailed: what `limits` raises, CORRUPT_IMAGE, UNSUPPORTED_PIXEL_FORMAT (not 8 bits, CMYK, transparency,
    turned pictures) and UNSUPPORTED_FORMAT (several pages, other compressions).
    """
    try:
        tags, more = _Directories(data).read_first()
    except (struct.error, IndexError, OverflowError):
        raise corrupt("TIFF", "its directory is cut off") from None
    width, height = _one(tags, _WIDTH, 0), _one(tags, _HEIGHT, 0)
    if not width or not height:
        raise corrupt("TIFF", "its width or height is missing")
    limits.check_size(width, height)
    if more:
        raise unsupported_format("The TIFF has several pages or levels and would be read in part only")
    compression = _one(tags, _COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise unsupported_format(f"TIFF compression {compression} is not supported")
    _check_pixels(tags, compression)
    _check_extent(tags, len(data), limits.max_pixels)
    return Header(width, height)


def _check_pixels(tags: dict[int, tuple[int, ...]], compression: int) -> None:
    """Only pixels whose colours are certain."""
    photometric, samples = _one(tags, _PHOTOMETRIC, -1), _one(tags, _SAMPLES, 1)
    bits = set(tags.get(_BITS, (1,)))
    if photometric == _SEPARATED:
        raise unsupported_pixels("TIFF", "CMYK")
    if bits != {8}:
        raise unsupported_pixels("TIFF", f"{max(bits, default=0)}-bit")
    if set(tags.get(_SAMPLE_FORMAT, (1,))) != {1}:
        raise unsupported_pixels("TIFF", "Signed or floating-point")
    if photometric == _YCBCR and compression != 7:
        raise unsupported_pixels("TIFF", "Uncompressed YCbCr")
    wanted = {_GRAY_INVERTED: 1, _GRAY: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3}.get(photometric)
    if wanted is None:
        raise unsupported_pixels("TIFF", "Neither gray nor RGB")
    if samples != wanted:
        # The decoder multiplies colours by transparency instead of dropping it.
        raise unsupported_pixels("TIFF", "Transparent" if samples > wanted else f"{samples}-channel")
    if _one(tags, _ORIENTATION, 1) != 1:
        # The decoder would turn the picture, and evidence would point at other pixels than the viewer shows.
        raise unsupported_pixels("TIFF", "Turned or mirrored")


def _check_extent(tags: dict[int, tuple[int, ...]], size: int, max_pixels: int) -> None:
    """Every strip or tile lies inside the file, and they are enough where that can be told without decoding."""
    pixels = _one(tags, _WIDTH, 0) * _one(tags, _HEIGHT, 0)
    offsets, lengths = tags.get(_STRIPS, ()), tags.get(_STRIP_BYTES, ())
    if _TILES in tags:
        offsets, lengths = tags[_TILES], tags.get(_TILE_BYTES, ())
        if not 0 < _one(tags, _TILE_WIDTH, 0) * _one(tags, _TILE_HEIGHT, 0) <= max_pixels:
            raise corrupt("TIFF", "the size of its tiles makes no sense")
    if not offsets or len(offsets) != len(lengths):
        raise corrupt("TIFF", "it does not say where its pixels are")
    if _one(tags, _COMPRESSION, 1) == 1 and sum(lengths) < pixels * _one(tags, _SAMPLES, 1):
        raise corrupt("TIFF", "it has fewer bytes than pixels")
    for offset, length in zip(offsets, lengths, strict=True):
        if not length or offset + length > size:
            raise corrupt("TIFF", "it ends before the end of the picture")


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    values = tags.get(tag, ())
    return values[0] if values else default


class _Directories:
    """The image directories of a TIFF; offsets outside the file raise struct.error or IndexError."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._order = "<" if data[:2] == b"II" else ">"
        self._big = self._read("H", 2)[0] == 43
        self._word = "Q" if self._big else "I"

    def read_first(self) -> tuple[dict[int, tuple[int, ...]], bool]:
        """The kept tags of the first page, and whether another page follows that is more than a thumbnail of it."""
        (first,) = self._read(self._word, 8 if self._big else 4)
        tags, following = self._directory(first)
        if not following:
            return tags, False
        second, rest = self._directory(following)
        thumbnail = bool(_one(second, _SUBFILE, 0) & 1) and not rest
        return tags, not thumbnail

    def _directory(self, at: int) -> tuple[dict[int, tuple[int, ...]], int]:
        entry_format = "HHQQ" if self._big else "HHII"
        count_format = "Q" if self._big else "H"
        (count,) = self._read(count_format, at)
        if not 0 < count <= 4096:
            raise IndexError
        at += struct.calcsize("<" + count_format)
        tags: dict[int, tuple[int, ...]] = {}
        size = struct.calcsize("<" + entry_format)
        for number in range(count):
            entry = at + number * size
            tag, kind, values, offset = self._read(entry_format, entry)
            if tag not in _KEPT:
                continue
            if kind not in _TYPES or values > _MAX_VALUES:
                raise IndexError
            code = f"{values}{_TYPES[kind]}"
            # A value that fits stands in the entry itself, where otherwise its place in the file stands.
            in_place = struct.calcsize("<" + code) <= struct.calcsize("<" + self._word)
            tags[tag] = self._read(code, entry + size - struct.calcsize("<" + self._word) if in_place else offset)
        return tags, self._read(self._word, at + count * size)[0]

    def _read(self, code: str, at: int) -> tuple[int, ...]:
        return struct.unpack_from(self._order + code, self._data, at)
