"""The structure of a PNG file: its size, its kind and whether every byte is as it was written."""

from __future__ import annotations

import zlib

from gramserve.images.header import Header
from gramserve.images.limits import ImageLimits
from gramserve.images.refuse import corrupt, unsupported_format

MAGIC = b"\x89PNG\r\n\x1a\n"

_MAX_CHUNKS = 200_000  # 256 MiB of pixels in chunks of 8 KiB are 32,768
_DEPTHS = {0: {1, 2, 4, 8, 16}, 2: {8, 16}, 3: {1, 2, 4, 8}, 4: {8, 16}, 6: {8, 16}}  # by colour type


def read_header(data: bytes, limits: ImageLimits) -> Header:
    """The header of a complete PNG within `limits`; every chunk's checksum is verified up to the end chunk.

    Raises SlideFailed: what `limits` raises, CORRUPT_IMAGE, and UNSUPPORTED_FORMAT for an animation.
    """
    header: Header | None = None
    seen_pixels = False
    chunks = 0
    at = len(MAGIC)
    view = memoryview(data)
    while True:
        length, kind = int.from_bytes(view[at : at + 4], "big"), bytes(view[at + 4 : at + 8])
        end = at + 8 + length
        if end + 4 > len(data):
            raise corrupt("PNG", "it ends before the end of the picture")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise corrupt("PNG", "a checksum is wrong")
        chunks += 1
        if chunks > _MAX_CHUNKS:
            raise corrupt("PNG", f"it has more than {_MAX_CHUNKS} chunks")
        if kind == b"acTL":
            raise unsupported_format("The PNG is an animation and would be read in part only")
        if (kind == b"IHDR") != (header is None):
            raise corrupt("PNG", "its header is not where it belongs")
        if kind == b"IHDR":
            header = _read_ihdr(bytes(view[at + 8 : end]))
            limits.check_size(header.width, header.height)
        seen_pixels = seen_pixels or kind == b"IDAT"
        if kind == b"IEND":
            break
        at = end + 4
    if header is None or not seen_pixels:
        raise corrupt("PNG", "it holds no picture")
    return header


def _read_ihdr(body: bytes) -> Header:
    if len(body) != 13:
        raise corrupt("PNG", "its header has the wrong length")
    width, height = int.from_bytes(body[0:4], "big"), int.from_bytes(body[4:8], "big")
    bits, colour = body[8], body[9]
    if bits not in _DEPTHS.get(colour, set()) or not 0 < width < 1 << 31 or not 0 < height < 1 << 31:
        raise corrupt("PNG", "its header makes no sense")
    return Header(width, height, 16 if bits == 16 else 8)
