"""The frames of one DICOM instance: where each lies in the file, and one of them decoded."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from pydicom.encaps import encapsulate
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID

from gramserve.images.dicom import MAX_FRAMES, Instance
from gramserve.images.field import Pixels
from gramserve.images.refuse import unsupported_pixels
from gramserve.images.wholeslide import refuse_unreadable

_ITEM, _END = 0xE000FFFE, 0xE0DDFFFE
_UNDEFINED: Final = 0xFFFFFFFF
_MAX_FRAME_PIXELS: Final = 64_000_000


class Frames:
    """Decodes single frames, uint8 RGB; the file of the instance stays open as long as they are used."""

    def __init__(self, instance: Instance, at: int) -> None:
        """`at` is where the element with the pixels begins.

        Raises SlideFailed: UNSUPPORTED_PIXEL_FORMAT, SLIDE_UNREADABLE.
        """
        header = instance.header
        self._file = instance.file
        self._syntax: UID = header.file_meta.TransferSyntaxUID
        self.width, self.height = int(header.Columns), int(header.Rows)
        self.count = int(header.get("NumberOfFrames", 1))
        samples = int(header.SamplesPerPixel)
        if int(header.BitsAllocated) != 8 or samples not in {1, 3} or header.get("PixelRepresentation", 0):
            raise unsupported_pixels("DICOM", f"{header.BitsAllocated}-bit, {samples}-channel")
        if not 0 < self.width * self.height <= _MAX_FRAME_PIXELS or self.count < 1:
            raise refuse_unreadable("has frames of a size that makes no sense")
        self._options: dict[str, Any] = {
            "rows": self.height,
            "columns": self.width,
            "number_of_frames": 1,
            "samples_per_pixel": samples,
            "photometric_interpretation": str(header.PhotometricInterpretation),
            "bits_allocated": 8,
            "bits_stored": int(header.BitsStored),
            "pixel_representation": 0,
            "pixel_keyword": "PixelData",
            "planar_configuration": int(header.get("PlanarConfiguration", 0)),
            "transfer_syntax_uid": self._syntax,
        }
        self._inverted = header.PhotometricInterpretation == "MONOCHROME1"
        self._places = self._find(at, header)
        if len(self._places) < self.count:
            raise refuse_unreadable("has fewer frames than it says")

    def decode(self, number: int) -> Pixels:
        """Frame `number` as uint8 RGB [height, width, 3]; raises SlideFailed (SLIDE_UNREADABLE)."""
        try:
            data = b"".join(self._bytes(at, length) for at, length in self._places[number])
            decoder = get_decoder(self._syntax)
            given = encapsulate([data], has_bot=False) if self._syntax.is_encapsulated else data
            pixels, _ = decoder.as_array(given, index=0, **self._options)
        except Exception:  # each codec has errors of its own
            raise refuse_unreadable("has a frame that cannot be decoded") from None
        if pixels.ndim == 2:
            gray = 255 - pixels if self._inverted else pixels
            pixels = np.repeat(gray[:, :, None], 3, axis=2)
        if pixels.shape != (self.height, self.width, 3) or pixels.dtype != np.uint8:
            raise refuse_unreadable("has a frame that is not what its header says")
        return np.ascontiguousarray(pixels)

    def _find(self, at: int, header: Any) -> Sequence[Sequence[tuple[int, int]]]:
        """Places and lengths of the pieces of each frame."""
        try:
            implicit = self._syntax.is_implicit_VR
            length = struct.unpack("<I", self._bytes(at + (4 if implicit else 8), 4))[0]
            start = at + (8 if implicit else 12)
            if self._syntax.is_encapsulated:
                return self._fragments(start, header)
            size = self.width * self.height * self._options["samples_per_pixel"]
            self._bytes(start + min(length, size * self.count) - 1, 1)
            return [[(start + number * size, size)] for number in range(min(length // size, self.count))]
        except (struct.error, ValueError, OSError):
            raise refuse_unreadable("does not say where its frames are") from None

    def _fragments(self, at: int, header: Any) -> Sequence[Sequence[tuple[int, int]]]:
        tag, length = struct.unpack("<II", self._bytes(at, 8))
        if tag != _ITEM or length % 4:
            raise ValueError
        offsets: Sequence[int] = struct.unpack(f"<{length // 4}I", self._bytes(at + 8, length))
        first = at = at + 8 + length
        extended = header.get("ExtendedOffsetTable")
        if extended:
            offsets = struct.unpack(f"<{len(extended) // 8}Q", extended)
        pieces: list[tuple[int, int]] = []
        while True:
            tag, length = struct.unpack("<II", self._bytes(at, 8))
            if tag == _END:
                break
            if tag != _ITEM or length == _UNDEFINED:
                raise ValueError
            pieces.append((at + 8, length))
            if len(pieces) > MAX_FRAMES:
                raise ValueError
            at += 8 + length
        if not offsets:
            if len(pieces) != self.count:
                raise ValueError
            return [[piece] for piece in pieces]
        if len(offsets) != self.count:
            raise ValueError
        numbers = {place - 8 - first: number for number, (place, _) in enumerate(pieces)}
        bounds = [numbers.get(offset, -1) for offset in offsets] + [len(pieces)]
        if min(bounds) < 0:
            raise ValueError
        return [pieces[start:end] for start, end in pairwise(bounds)]

    def _bytes(self, at: int, length: int) -> bytes:
        data = self._file.part(at, length)
        if len(data) != length:
            raise ValueError
        return data
