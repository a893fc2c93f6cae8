"""What an image may cost before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

from gramserve.errors import Reason, SlideFailed


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """Limits of one image.

    `max_bytes` of the encoded file, `max_pixels` (width x height) of the picture, and `min_px`, the least length of its
    shorter side.
    """

    max_bytes: int = 256 * 1024 * 1024
    max_pixels: int = 64_000_000
    min_px: int = 32

    def check_bytes(self, size: int) -> None:
        """Raises SlideFailed: EMPTY_IMAGE, IMAGE_TOO_LARGE."""
        if not size:
            raise SlideFailed(Reason.EMPTY_IMAGE, "The image is empty.")
        if size > self.max_bytes:
            raise SlideFailed(
                Reason.IMAGE_TOO_LARGE, f"The image has {size} bytes; the limit is {self.max_bytes} bytes."
            )

    def check_size(self, width: int, height: int) -> None:
        """Raises SlideFailed: IMAGE_TOO_LARGE, IMAGE_TOO_SMALL."""
        size = f"The image has {width} x {height} pixels"
        if width * height > self.max_pixels:
            raise SlideFailed(Reason.IMAGE_TOO_LARGE, f"{size}; the limit is {self.max_pixels} pixels.")
        if min(width, height) < self.min_px:
            raise SlideFailed(Reason.IMAGE_TOO_SMALL, f"{size}; each side needs at least {self.min_px}.")
