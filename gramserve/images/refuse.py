"""The typed refusals of an image: one constructor for each reason, so that every format words them alike."""

from __future__ import annotations

from gramserve.errors import Reason, SlideFailed


def corrupt(kind: str, what: str) -> SlideFailed:
    """The file claims to be a `kind` but is damaged or cut off."""
    return SlideFailed(Reason.CORRUPT_IMAGE, f"The {kind} is damaged: {what}.")


def unsupported_pixels(kind: str, what: str) -> SlideFailed:
    """The file is sound, but its pixels cannot be read without guessing at their colours."""
    return SlideFailed(
        Reason.UNSUPPORTED_PIXEL_FORMAT, f"{what} {kind} images are not supported; save it as 8-bit RGB or gray."
    )


def unsupported_format(what: str) -> SlideFailed:
    """The file is no image, or one of a kind that is not read."""
    return SlideFailed(Reason.UNSUPPORTED_FORMAT, f"{what}; send a JPEG, PNG or TIFF.")
