"""Slides as clients name them, checked and turned into the records of a manifest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable

from gramserve.errors import InvalidInput, Reason
from gramserve.store.records import ImageRecord, SlideRecord
from gramserve.v1 import slide_batch_pb2

MAX_IMAGES = 1000
MAX_INLINE_BYTES = 1 << 20
MAX_SLIDE_ID = 128
_MAX_URI = 4096
_MAX_SPECIMEN = 63
_MAX_VIOLATIONS = 100
_SHA256 = re.compile(r"[0-9a-f]{64}")


class SlideChecker:
    """Checks slides one after the other, and keeps what they are as records.

    `field` names the slide of an index for the client, such as "slide_batch.slides[3]". Violations say which field is
    wrong and never what stood in it. `contents` has the inline bytes by digest, not yet in the store.
    """

    def __init__(self, field: Callable[[int], str]) -> None:
        self.slides: list[SlideRecord] = []
        self.contents: dict[str, bytes] = {}
        self._field = field
        self._seen: dict[str, int] = {}
        self._violations: list[tuple[Reason, str, str]] = []

    def add(self, source: slide_batch_pb2.SlideSource) -> None:
        """Takes the next slide."""
        index = len(self.slides)
        slide_id = source.slide_id
        if not 1 <= len(slide_id) <= MAX_SLIDE_ID or not slide_id.isprintable():
            self.refuse(index, "slide_id", "must be 1 to 128 printable characters")
        elif (first := self._seen.setdefault(slide_id, index)) != index:
            self.refuse(index, "slide_id", f"is that of {self._field(first)} too", Reason.DUPLICATE_SLIDE_ID)
        if not 1 <= len(source.images) <= MAX_IMAGES:
            self.refuse(index, "images", f"must be 1 to {MAX_IMAGES} images")
        specimen = source.specimen_type
        if specimen and (len(specimen) > _MAX_SPECIMEN or not specimen.isprintable()):
            self.refuse(index, "specimen_type", f"must be at most {_MAX_SPECIMEN} printable characters")
        images = tuple([self._image(index, position, image) for position, image in enumerate(source.images)])
        self.slides.append(SlideRecord(index, slide_id, images, specimen))

    def refuse(self, index: int, field: str, what: str, reason: Reason = Reason.INVALID_FIELD) -> None:
        """Notes that a field of a slide is wrong; `field` may be "" for the slide itself."""
        if len(self._violations) < _MAX_VIOLATIONS:
            name = self._field(index)
            self._violations.append((reason, f"{name}.{field}" if field else name, what))

    def check(self) -> None:
        """Raises InvalidInput (DUPLICATE_SLIDE_ID when that is all, else INVALID_FIELD), naming up to 100 fields."""
        if not self._violations:
            return
        reasons = {reason for reason, _, _ in self._violations}
        _, field, what = self._violations[0]
        raise InvalidInput(
            Reason.INVALID_FIELD if len(reasons) > 1 else reasons.pop(),
            f"{field} {what}",
            violations=[(name, wrong) for _, name, wrong in self._violations],
        )

    def _image(self, index: int, position: int, image: slide_batch_pb2.Image) -> ImageRecord:
        field, kind = f"images[{position}]", image.WhichOneof("source")
        if image.content_sha256 and not _SHA256.fullmatch(image.content_sha256):
            self.refuse(index, f"{field}.content_sha256", "must be 64 lower-case hexadecimal digits")
        if kind == "sha256":
            if not _SHA256.fullmatch(image.sha256):
                self.refuse(index, f"{field}.sha256", "must be 64 lower-case hexadecimal digits")
            return ImageRecord(sha256=image.sha256, content_sha256=image.content_sha256)
        if kind == "uri":
            if not 1 <= len(image.uri) <= _MAX_URI or not image.uri.isprintable():
                self.refuse(index, f"{field}.uri", f"must be 1 to {_MAX_URI} printable characters")
            return ImageRecord(uri=image.uri, content_sha256=image.content_sha256)
        if kind == "content":
            if len(image.content) > MAX_INLINE_BYTES:
                self.refuse(index, f"{field}.content", "must be at most 1 MiB; upload larger images")
            digest = hashlib.sha256(image.content).hexdigest()
            self.contents[digest] = image.content
            return ImageRecord(sha256=digest, content_sha256=image.content_sha256)
        self.refuse(index, field, "must have sha256, uri or content")
        return ImageRecord()
