"""The structure of a JPEG file: its size, its kind and whether it is all there."""

from __future__ import annotations

import re

from gramserve.images.header import Header
from gramserve.images.limits import ImageLimits
from gramserve.images.refuse import corrupt, unsupported_pixels

MAGIC = b"\xff\xd8\xff"

# Inside a scan 0xFF is followed by 0 (stuffing) or a restart number; anything else ends the scan. A pattern that begins
# with one plain byte is searched for sixteen times as fast as one that begins with a repeated byte.
_NO_FILL = re.compile(rb"[^\xff]")
_MAX_SEGMENTS = 10_000
_SCAN_END = re.compile(rb"\xff(?=\xff*[^\x00\xff\xd0-\xd7])")
_EOI, _SOS = 0xD9, 0xDA
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15 without DHT, JPG and DAC
_READ = {0xC0, 0xC1, 0xC2}  # baseline, extended sequential, progressive: Huffman coded
# Each scan of a progressive file goes over the whole picture: a small file with thousands of them would take minutes.
_MAX_SCANS = 100


def read_header(data: bytes, limits: ImageLimits) -> Header:
    """The header of a complete JPEG within `limits`.

    Walks all segments and scans to the end-of-image marker, because decoders fill what is cut off with grey and say
    nothing. Bytes after the marker are ignored: cameras put previews there. Raises SlideFailed: what `limits` raises,
    CORRUPT_IMAGE, and UNSUPPORTED_PIXEL_FORMAT for CMYK, 12-bit, arithmetic or lossless coding.
    """
    header: Header | None = None
    scans = segments = 0
    at = 2
    while True:
        marker, at = _next_marker(data, at)
        segments += 1
        if segments > _MAX_SEGMENTS:
            raise corrupt("JPEG", f"it has more than {_MAX_SEGMENTS} segments")
        if marker == _EOI:
            break
        if marker in {0x01, *range(0xD0, 0xD9)}:  # markers without a body
            continue
        end = at + int.from_bytes(data[at : at + 2], "big")
        if end < at + 2 or end > len(data):
            raise corrupt("JPEG", "it ends in the middle of a header")
        if marker in _FRAMES:
            if header is not None:
                raise corrupt("JPEG", "it has more than one picture header")
            header = _read_frame(marker, data[at:end])
            limits.check_size(header.width, header.height)
        if marker == _SOS:
            scans += 1
            found = _SCAN_END.search(data, end)
            if found is None:
                raise corrupt("JPEG", "it ends before the end of the picture")
            if scans > _MAX_SCANS:
                raise corrupt("JPEG", f"it has more than {_MAX_SCANS} scans")
            end = found.start()
        at = end
    if header is None or scans == 0:
        raise corrupt("JPEG", "it holds no picture")
    return header


def _next_marker(data: bytes, at: int) -> tuple[int, int]:
    """The marker at `at` and where its body starts."""
    if data[at : at + 1] != b"\xff":
        raise corrupt("JPEG", "it ends before the end of the picture" if at >= len(data) else "a marker is missing")
    found = _NO_FILL.search(data, at)
    if found is None:
        raise corrupt("JPEG", "it ends before the end of the picture")
    return data[found.start()], found.end()


def _read_frame(marker: int, body: bytes) -> Header:
    """`body` is the frame segment: length (2 bytes), bits, height (2), width (2), channels, then 3 for each channel."""
    if len(body) < 8:
        raise corrupt("JPEG", "its picture header is too short")
    bits, channels = body[2], body[7]
    height, width = int.from_bytes(body[3:5], "big"), int.from_bytes(body[5:7], "big")
    if marker not in _READ:
        raise unsupported_pixels("JPEG", "Lossless or arithmetic-coded")
    if bits != 8:
        raise unsupported_pixels("JPEG", f"{bits}-bit")
    if channels not in {1, 3}:
        raise unsupported_pixels("JPEG", "CMYK" if channels == 4 else f"{channels}-channel")
    if not width or not height:
        raise corrupt("JPEG", "its width or height is 0")
    return Header(width, height)
