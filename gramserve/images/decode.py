"""Encoded bytes to pixels: JPEG, PNG and TIFF, checked by our own header readers before OpenCV sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import cv2
import numpy as np

from gramserve.errors import Reason, SlideFailed
from gramserve.images import jpeg, png, tiff
from gramserve.images.field import Field, Pixels
from gramserve.images.header import Header
from gramserve.images.limits import ImageLimits
from gramserve.images.refuse import corrupt, unsupported_format

Reduction: TypeAlias = Literal[1, 2, 4, 8]

# The picture is decoded as it is stored, whatever orientation its metadata asks for: evidence points at stored pixels.
_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
# OpenCV reads the scale from the gray flags; its colour flags would ask for BGR. Only its JPEG decoder decodes at a
# scale: all other formats would be decoded in full and resized by OpenCV in a way of its own.
_REDUCED: Final[dict[int, int]] = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
_BYTES_PER_PIXEL = 3 + 6 + 3  # the picture, coefficients of a progressive JPEG or 16-bit samples, and room to spare

# How a file of each format begins, and who reads its header.
_READERS: tuple[tuple[bytes | tuple[bytes, ...], Callable[[bytes, ImageLimits], Header]], ...] = (
    (jpeg.MAGIC, jpeg.read_header),
    (png.MAGIC, png.read_header),
    (tiff.MAGICS, tiff.read_header),
)


def use_one_thread() -> None:
    """Settings of a process that decodes: one OpenCV thread and no lines of OpenCV's own on standard error."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_header(data: bytes, limits: ImageLimits) -> Header:
    """What an encoded image is, at the cost of reading its headers; the size of the picture is checked, not allocated.

    Raises SlideFailed: EMPTY_IMAGE, UNSUPPORTED_FORMAT, UNSUPPORTED_PIXEL_FORMAT, CORRUPT_IMAGE, IMAGE_TOO_LARGE,
    IMAGE_TOO_SMALL.
    """
    limits.check_bytes(len(data))
    for magics, reader in _READERS:
        if data.startswith(magics):
            return reader(data, limits)
    raise unsupported_format("The file is not an image that can be read")


def decode(data: bytes, limits: ImageLimits, reduction: Reduction = 1) -> Pixels:
    """The picture as uint8 RGB [height, width, 3]: gray expanded, transparency dropped, 16-bit PNG scaled to 8 bits.

    A JPEG is decoded at 1/`reduction` of its width and height, rounded up, by leaving out its high frequencies; any
    other format in full. Colour profiles and gamma are ignored. Raises what `read_header` raises, and SlideFailed
    OUT_OF_MEMORY (retryable).
    """
    return decode_field(data, limits, lambda width, height: reduction).pixels


def decode_field(data: bytes, limits: ImageLimits, choose: Callable[[int, int], Reduction]) -> Field:
    """Like `decode`, as a field that knows its full size; `choose` gives the reduction of a JPEG of a width and height.

    Raises what `decode` raises.
    """
    header = read_header(data, limits)
    reduction: Reduction = choose(header.width, header.height) if data.startswith(jpeg.MAGIC) else 1
    return Field(_pixels(data, header, reduction), header.width, header.height, reduction)


def _pixels(data: bytes, header: Header, reduction: Reduction) -> Pixels:
    flags = _FLAGS | _REDUCED[reduction] | (cv2.IMREAD_ANYDEPTH if header.bits == 16 else 0)
    try:
        # OpenCV calls a picture undecodable when memory ran out in the middle: ask for more than it will need first.
        # Pages that are never written cost nothing.
        np.empty(header.width * header.height * _BYTES_PER_PIXEL, np.uint8)
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except MemoryError:
        raise SlideFailed(
            Reason.OUT_OF_MEMORY, "There was not enough memory to decode the image.", retryable=True
        ) from None
    except cv2.error:
        raise corrupt("image", "its pixels cannot be decoded") from None
    # OpenCV answers None for what it cannot decode; its stubs do not say so.
    if image is None or image.shape != (-(-header.height // reduction), -(-header.width // reduction), 3):
        raise corrupt("image", "its pixels cannot be decoded")
    if image.dtype == np.uint16:
        # 65,535 becomes 255 and 0 stays 0, rounded to the nearest.
        image = (image.astype(np.uint32) + 128) // 257
    return np.ascontiguousarray(image, np.uint8)
