"""The microns per pixel that OME-XML states in the description of an OME-TIFF."""

from __future__ import annotations

import re
from typing import Final

_UNITS: Final = {"": 1.0, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3}
_PIXELS: Final = re.compile(r"<(?:\w+:)?Pixels\s[^>]{0,4000}>")


def ome_mpp(description: str) -> float | None:
    """`PhysicalSizeX` in microns of the first picture; None when the text is no OME-XML or does not say."""
    pixels = _PIXELS.search(description[:100_000])
    if pixels is None:
        return None
    size, unit = _attribute(pixels[0], "PhysicalSizeX"), _attribute(pixels[0], "PhysicalSizeXUnit")
    try:
        return float(size) * _UNITS[unit] or None
    except (KeyError, ValueError):
        return None


def _attribute(element: str, name: str) -> str:
    found = re.search(rf'\s{name}\s*=\s*"([^"]{{0,40}})"', element)
    return found[1] if found else ""
