"""A CreateSlideBatch request, checked before anything is written."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from gateway.convert import seconds_of
from gateway.manifest_file import ManifestFiles
from gateway.names import check_batch_id, invalid, parse_laboratory
from gateway.sources import SlideChecker
from gramserve.errors import InvalidInput, Reason
from gramserve.store.records import Priority, SlideRecord
from gramserve.v1 import slide_batch_pb2, slide_batch_service_pb2

_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MAX_ANNOTATIONS = 64
_MAX_KEY = 63
_MAX_VALUE = 1024
_LATEST_S = 4_000_000_000.0  # the year 2096; the queue's scores end in 2109
_INPUT_FIELDS = (
    "model",
    "slides",
    "manifest_uri",
    "priority",
    "deliver_by",
    "max_failed_ratio",
    "annotations",
    "result_reuse",
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose request it is: `batch` and `request_id` are "" where not given; `fingerprint` stands for the payload."""

    laboratory: str
    batch: str
    request_id: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Submission:
    """A batch that can be accepted; `contents` has the inline images by digest. Times are Unix seconds."""

    slides: list[SlideRecord]
    contents: dict[str, bytes]
    model: str
    priority: Priority
    deliver_by: float | None
    max_failed_ratio: float
    annotations: dict[str, str]
    reuse_results: bool = True


def identify(request: slide_batch_service_pb2.CreateSlideBatchRequest) -> Identity:
    """Checks the names in a request, and nothing that can change from one repeat to the next; raises InvalidInput."""
    laboratory = parse_laboratory(request.parent)
    if request.slide_batch_id:
        check_batch_id(request.slide_batch_id)
    return Identity(laboratory, request.slide_batch_id, check_request_id(request.request_id), _fingerprint(request))


def check_request_id(request_id: str) -> str:
    """The request id in lower case; raises InvalidInput unless it is empty or a UUID4."""
    request_id = request_id.lower()
    if request_id and not _UUID4.fullmatch(request_id):
        raise invalid("request_id", "must be a UUID4 such as 9f1c8f3e-3c1b-4d8e-9a51-0f6d3c0a7c11")
    return request_id


class Examiner:
    """Judges batches. `clock` gives Unix seconds."""

    def __init__(self, files: ManifestFiles, *, max_inline_slides: int, clock: Callable[[], float]) -> None:
        self._files = files
        self._max_inline_slides = max_inline_slides
        self._clock = clock

    async def examine(self, batch: slide_batch_pb2.SlideBatch, laboratory: str = "") -> Submission:
        """The batch, ready to be accepted; raises InvalidInput naming every field that is wrong."""
        wrong = [*_priority(batch), *_ratio(batch), *_annotations(batch), *_deadline(batch)]
        if batch.slides and batch.manifest_uri:
            wrong.append(("slide_batch.manifest_uri", "cannot be used together with slides"))
        if wrong:
            field, what = wrong[0]
            raise InvalidInput(Reason.INVALID_FIELD, f"{field} {what}", violations=wrong)
        deliver_by = seconds_of(batch.deliver_by) if batch.HasField("deliver_by") else None
        if deliver_by is not None and deliver_by <= self._clock():
            raise _refused(Reason.DEADLINE_PASSED, "slide_batch.deliver_by", "lies in the past")
        checker = await self._files.read(batch.manifest_uri, laboratory) if batch.manifest_uri else self._inline(batch)
        checker.check()
        return Submission(
            slides=checker.slides,
            contents=checker.contents,
            model=batch.model,
            priority=Priority.STAT if batch.priority == slide_batch_pb2.SlideBatch.PRIORITY_STAT else Priority.ROUTINE,
            deliver_by=deliver_by,
            # A float on the wire: 0.7 arrives as 0.69999999, and 7 of 10 would be more than that.
            max_failed_ratio=round(batch.max_failed_ratio, 6),
            annotations=dict(batch.annotations),
            reuse_results=batch.result_reuse != slide_batch_pb2.SlideBatch.RESULT_REUSE_OFF,
        )

    def _inline(self, batch: slide_batch_pb2.SlideBatch) -> SlideChecker:
        if not batch.slides:
            raise _refused(Reason.NO_SLIDES, "slide_batch.slides", "is empty; a batch needs at least one slide")
        if len(batch.slides) > self._max_inline_slides:
            raise _refused(
                Reason.TOO_MANY_SLIDES,
                "slide_batch.slides",
                f"has {len(batch.slides)} slides, {self._max_inline_slides} are allowed inline; use manifest_uri",
            )
        checker = SlideChecker(lambda index: f"slide_batch.slides[{index}]")
        for source in batch.slides:
            checker.add(source)
        return checker


def _fingerprint(request: slide_batch_service_pb2.CreateSlideBatchRequest) -> str:
    """SHA-256 of what a client can choose; a manifest_uri counts by its name, not by what the file holds."""
    chosen = slide_batch_service_pb2.CreateSlideBatchRequest(
        parent=request.parent, slide_batch_id=request.slide_batch_id, slide_batch=request.slide_batch
    )
    batch: Message = chosen.slide_batch
    for field in batch.DESCRIPTOR.fields_by_name:
        if field not in _INPUT_FIELDS:
            batch.ClearField(field)
    return hashlib.sha256(chosen.SerializeToString(deterministic=True)).hexdigest()


def _priority(batch: slide_batch_pb2.SlideBatch) -> list[tuple[str, str]]:
    known = batch.priority in slide_batch_pb2.SlideBatch.Priority.values()
    return [] if known else [("slide_batch.priority", "must be PRIORITY_ROUTINE or PRIORITY_STAT")]


def _ratio(batch: slide_batch_pb2.SlideBatch) -> list[tuple[str, str]]:
    possible = math.isfinite(batch.max_failed_ratio) and 0 <= batch.max_failed_ratio <= 1
    return [] if possible else [("slide_batch.max_failed_ratio", "must be from 0 to 1")]


def _annotations(batch: slide_batch_pb2.SlideBatch) -> list[tuple[str, str]]:
    possible = len(batch.annotations) <= _MAX_ANNOTATIONS and all(
        1 <= len(key) <= _MAX_KEY and len(value) <= _MAX_VALUE for key, value in batch.annotations.items()
    )
    rule = (
        f"must be at most {_MAX_ANNOTATIONS} entries, keys of 1 to {_MAX_KEY}, values of 0 to {_MAX_VALUE} characters"
    )
    return [] if possible else [("slide_batch.annotations", rule)]


def _deadline(batch: slide_batch_pb2.SlideBatch) -> list[tuple[str, str]]:
    stamp: Timestamp = batch.deliver_by
    possible = 0 <= stamp.nanos < 1_000_000_000 and stamp.seconds <= _LATEST_S
    return [] if possible else [("slide_batch.deliver_by", "must be a valid time before the year 2096")]


def _refused(reason: Reason, field: str, what: str) -> InvalidInput:
    return InvalidInput(reason, f"{field} {what}", violations=[(field, what)])
