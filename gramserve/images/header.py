"""What the header of an encoded image says, read before anything is decoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Header:
    """Width and height in pixels of the stored picture, and its bits per channel (8 or 16)."""

    width: int
    height: int
    bits: int = 8
