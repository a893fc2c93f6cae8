"""One line of the audit record: who did what with which object, chained to the line before.

A line is canonical JSON (RFC 8785: keys sorted, no blanks, UTF-8; only strings and whole numbers occur) and holds the
SHA-256 of the line before it. So no line can be changed, taken out or moved without changing all that follow.
No patient data: objects are named by laboratory, batch and index of the slide, never by slide_id or file.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Any

from gramserve.access import principal
from gramserve.store.codec import RecordCorrupt, decode

NOTHING = "0" * 64
"""What the first record of all has as `previous`."""


class Action(StrEnum):
    """What was done."""

    BATCH_CREATE = "batch.create"
    BATCH_CANCEL = "batch.cancel"
    BATCH_RETRY = "batch.retry"
    BATCH_DELIVER = "batch.deliver"
    BATCH_PURGE = "batch.purge"
    SLIDE_CLASSIFY = "slide.classify"
    RESULTS_READ = "results.read"
    IMAGE_UPLOAD = "image.upload"
    IMAGES_PURGE = "images.purge"
    MODEL_PUBLISH = "model.publish"
    MODEL_SIGN = "model.sign"
    MODEL_PROMOTE = "model.promote"
    MODEL_ROLL_BACK = "model.roll_back"
    MODEL_REMOVE_ALIAS = "model.remove_alias"
    FILE_UPLOAD = "file.upload"
    OPTIMIZATION_CREATE = "optimization.create"
    OPTIMIZATION_CANCEL = "optimization.cancel"
    OPTIMIZATION_PURGE = "optimization.purge"
    ACCESS_REFUSE = "access.refuse"
    AUDIT_CLOSE_DAY = "audit.close_day"
    AUDIT_PURGE = "audit.purge"
    STORE_COPY = "store.copy"


@dataclass(frozen=True, slots=True)
class Deed:
    """Something to be recorded: `actor` did `action` with the object of that resource name.

    `artifact` is the SHA-256 of the manifest of the model version in use, where there is one.
    """

    action: Action
    object: str
    artifact: str = ""
    detail: dict[str, str | int] = field(default_factory=dict)
    actor: str = field(default_factory=lambda: principal.current().name)


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """A recorded deed: its `number` in the order of all, the time (RFC 3339, UTC) and the `writer` that recorded it."""

    number: int
    time: str
    writer: str
    actor: str
    action: str
    object: str
    artifact: str
    detail: dict[str, Any]
    previous: str

    def line(self) -> bytes:
        """The canonical line, with its line break."""
        text = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8", "backslashreplace") + b"\n"

    @property
    def day(self) -> date:
        """The day in whose file the record stands."""
        return date.fromisoformat(self.time[:10])


def parse_line(line: bytes) -> AuditRecord:
    """The record of a line; raises RecordCorrupt unless `line` is exactly what a record writes."""
    record = decode(AuditRecord, line)
    try:
        plain = all(type(value) in {str, int} for value in record.detail.values())
        exact = plain and record.line() == line and bool(record.day)
    except ValueError:  # the time is none
        exact = False
    if not exact:
        raise RecordCorrupt("AuditRecord")
    return record


def line_hash(line: bytes) -> str:
    """The SHA-256 of a line with its line break, in hex: what the next record has as `previous`."""
    return hashlib.sha256(line).hexdigest()


def time_text(time_s: float) -> str:
    """Unix seconds as RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
