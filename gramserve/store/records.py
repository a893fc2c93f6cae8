"""What the store keeps about batches: one frozen dataclass for each kind of object.

Times are Unix seconds. None of these records may be logged or put into Redis: slide ids and references name patients'
specimens.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from gramserve.store.codec import Record


class Priority(StrEnum):
    """The scheduling class: STAT overtakes ROUTINE."""

    ROUTINE = "ROUTINE"
    STAT = "STAT"


class SlideState(StrEnum):
    """Where a slide stands; the last four are terminal."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def terminal(self) -> bool:
        """True when the slide will not change any more in this round."""
        return self not in {SlideState.QUEUED, SlideState.RUNNING}

    @property
    def letter(self) -> str:
        """The state in `FinalRecord.slide_states`: its first letter."""
        return self.value[0]

    @classmethod
    def from_letter(cls, letter: str) -> SlideState:
        """The terminal state that `letter` (S F C E) stands for; ValueError for any other."""
        for state in cls:
            if state.terminal and state.letter == letter:
                return state
        raise ValueError(letter)


class BatchState(StrEnum):
    """Where a batch stands; the last five are terminal."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    CANCELLING = "CANCELLING"
    SUCCEEDED = "SUCCEEDED"
    PARTIALLY_SUCCEEDED = "PARTIALLY_SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"

    @property
    def terminal(self) -> bool:
        """True when the batch will not change any more in this round."""
        return self not in {BatchState.QUEUED, BatchState.RUNNING, BatchState.CANCELLING}


@dataclass(frozen=True, slots=True)
class ImageRecord(Record):
    """One image of a slide: `sha256` of bytes in the store, or `uri` of a file.

    Content that came inside a request was put into the store under its digest before.
    `content_sha256`, where given, is what the client says the bytes of `uri` hash to.
    """

    sha256: str = ""
    uri: str = ""
    content_sha256: str = ""


@dataclass(frozen=True, slots=True)
class SlideRecord(Record):
    """One slide of a batch: `index` from 0 in the order of submission."""

    index: int
    slide_id: str
    images: tuple[ImageRecord, ...]
    specimen_type: str = ""


@dataclass(frozen=True, slots=True)
class BatchRecord(Record):
    """A batch as it was accepted; never changes.

    `model` is what was asked for, `model_version` ("models/m/versions/3") and `model_digest` what it was frozen to.
    `reuse_results`: slides whose pixels were called before may get that call. `trace` is the W3C traceparent of the
    call that made it, "" where that is not traced.
    """

    laboratory: str
    batch: str
    request_id: str
    fingerprint: str
    model: str
    model_version: str
    model_digest: str
    slide_count: int
    priority: Priority
    deliver_by: float | None
    max_failed_ratio: float
    annotations: dict[str, str]
    create_time: float
    reuse_results: bool = True
    trace: str = ""


@dataclass(frozen=True, slots=True)
class RequestRecord(Record):
    """Which batch a request id made, and the fingerprint of what was asked for."""

    batch: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ErrorRecord(Record):
    """Why a slide or batch failed: a `gramserve.errors.Reason` value and a sentence without patient data."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class OutcomeRecord(Record):
    """The one terminal outcome of a slide in a round: SUCCEEDED with `call` (Call.to_json) or FAILED with `error`.

    `attempts` counts deliveries, this one included; `queue_s` is acceptance to first lease; `inference_s` is time
    inside the engine; `time` is when the outcome was written; `reused`: the call is that of an earlier slide with the
    same pixels, artifact and specimen type, and `engine` is what made it then.
    """

    index: int
    round: int
    state: SlideState
    call: dict[str, Any] | None = None
    error: ErrorRecord | None = None
    attempts: int = 1
    worker_id: str = ""
    artifact_digest: str = ""
    engine: str = ""
    queue_s: float = 0.0
    inference_s: float = 0.0
    time: float = 0.0
    reused: bool = False

    @property
    def review_required(self) -> bool:
        """True when the call says that a person must look at it."""
        return bool(self.call and self.call.get("review_reasons"))


@dataclass(frozen=True, slots=True)
class StopRecord(Record):
    """Why a round of a batch stops early; expiry needs no record, it follows from `deliver_by`."""

    cause: Literal["CANCELLED", "TOO_MANY_FAILURES"]
    time: float


@dataclass(frozen=True, slots=True)
class RoundRecord(Record):
    """A retry (round 1, 2, ...): the slides that run again, ascending. Round 0 is the batch itself, with no record."""

    round: int
    request_id: str
    indices: tuple[int, ...]
    time: float


@dataclass(frozen=True, slots=True)
class Counts(Record):
    """Slides by state; all but `review` (calls that a person must look at) add up to `total`."""

    total: int
    queued: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    review: int = 0


@dataclass(frozen=True, slots=True)
class FinalRecord(Record):
    """The end of a round: from then on the truth about the batch.

    `slide_states` has one letter per slide by index (S F C E, see `SlideState.letter`); `manifest_digest` is the
    SHA-256 of the output's manifest.json; `last_sequence` is that of the batch's last event.
    """

    round: int
    state: BatchState
    counts: Counts
    slide_states: str
    manifest_digest: str = ""
    error: ErrorRecord | None = None
    start_time: float | None = None
    end_time: float = 0.0
    last_sequence: int = 0


@dataclass(frozen=True, slots=True)
class TombstoneRecord(Record):
    """What is left of a batch that was purged after its `round` had ended: no patient data, and it stays for ever."""

    purged_by: str
    time: float
    round: int
    create_time: float
    end_time: float
    slide_count: int
    model_version: str
    model_digest: str


@dataclass(frozen=True, slots=True)
class AliasRecord(Record):
    """What a movable name of a model stands for; `history` has the versions it stood for before, oldest first.

    `version` 0 is none: the alias was removed. `share` (0 to 1) is for the alias "shadow": the part of production's
    slides that it runs, too.
    """

    version: int
    history: tuple[int, ...] = ()
    time: float = 0.0
    share: float = 0.0
