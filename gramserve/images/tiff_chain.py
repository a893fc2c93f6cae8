"""The chain of image directories of a TIFF, walked before a library does that keeps them all."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from gramserve.images.refuse import corrupt, unsupported_format

MAX_DIRECTORIES: Final = 4096
"""A scanner writes a few dozen."""


def check_chain(part: Callable[[int, int], bytes], size: int) -> None:
    """The directories of a TIFF of `size` bytes follow each other to an end; `part(at, length)` gives its bytes.

    What is no TIFF directory ends the walk: readers refuse that by themselves. Raises SlideFailed: CORRUPT_IMAGE (a
    circle), UNSUPPORTED_FORMAT (more than MAX_DIRECTORIES).
    """
    order = "<" if part(0, 2) == b"II" else ">"
    big = part(2, 2) in {b"+\0", b"\0+"}
    count_format, word, entry_bytes = ("Q", "Q", 20) if big else ("H", "I", 12)

    def number(at: int, code: str) -> int:
        data = part(at, struct.calcsize(order + code))
        return int(struct.unpack(order + code, data)[0])

    seen: set[int] = set()
    try:
        at = number(8 if big else 4, word)
        while at:
            if at in seen:
                raise corrupt("TIFF", "its directories lead in a circle")
            seen.add(at)
            if len(seen) > MAX_DIRECTORIES:
                raise unsupported_format(f"The TIFF has more than {MAX_DIRECTORIES} pages")
            end = at + struct.calcsize(order + count_format) + number(at, count_format) * entry_bytes
            if end >= size:
                return
            at = number(end, word)
    except struct.error:
        return
