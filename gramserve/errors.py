"""The exception tree of gramserve: what can go wrong, said once, without knowing any transport.

GramserveError
├── InvalidInput          the caller sent something that can never work
├── NotFound              the named thing does not exist (or is not the caller's to see)
├── AlreadyExists         the name or request id is taken by something else
├── PreconditionFailed    the thing exists but is in the wrong state
├── Conflict              somebody else changed the thing first; read again and retry
├── Unauthenticated       nobody knows who calls
├── PermissionDenied      the caller may not do this
├── Exhausted             a limit is reached; try again later
├── Unavailable           a part of the system cannot be reached; try again soon
├── DeadlineExceeded      the answer was not there when the caller's deadline came
├── Unsafe                the ground the service stands on is not safe: it refuses to start
├── SlideFailed           one slide cannot be classified; its neighbours can
├── ArtifactInvalid       an artifact is incomplete, altered or computes wrong numbers here
└── NotAccepted           no candidate of an optimization proved to be as good as the checkpoint

`gramserve.rpc.status` holds the one table from these classes to gRPC status codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType


class Reason(StrEnum):
    """Why a request, slide or optimization failed: the `reason` of `google.rpc.ErrorInfo`.

    Mirrors `gramserve.v1.ErrorReason` in protos/gramserve/v1/error_reason.proto, where each reason is explained;
    a test holds the two together.
    """

    # Requests.
    INVALID_FIELD = "INVALID_FIELD"
    DUPLICATE_SLIDE_ID = "DUPLICATE_SLIDE_ID"
    NO_SLIDES = "NO_SLIDES"
    TOO_MANY_SLIDES = "TOO_MANY_SLIDES"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    INVALID_PAGE_TOKEN = "INVALID_PAGE_TOKEN"
    INVALID_FILTER = "INVALID_FILTER"
    UNKNOWN_MODEL = "UNKNOWN_MODEL"
    UNKNOWN_MODEL_VERSION = "UNKNOWN_MODEL_VERSION"
    UNKNOWN_BATCH = "UNKNOWN_BATCH"
    UNKNOWN_OPTIMIZATION = "UNKNOWN_OPTIMIZATION"
    UNKNOWN_METHOD = "UNKNOWN_METHOD"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    BATCH_ID_TAKEN = "BATCH_ID_TAKEN"
    BATCH_TERMINAL = "BATCH_TERMINAL"
    BATCH_NOT_TERMINAL = "BATCH_NOT_TERMINAL"
    NOTHING_TO_RETRY = "NOTHING_TO_RETRY"
    NOTHING_TO_ROLL_BACK = "NOTHING_TO_ROLL_BACK"
    OPTIMIZATION_TERMINAL = "OPTIMIZATION_TERMINAL"
    STALE_ETAG = "STALE_ETAG"
    DEADLINE_PASSED = "DEADLINE_PASSED"
    # Capacity and parts.
    QUEUE_FULL = "QUEUE_FULL"
    STORE_FULL = "STORE_FULL"
    QUEUE_UNAVAILABLE = "QUEUE_UNAVAILABLE"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    SERVICE_UNAVAILABLE = "SERVICE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    UNSAFE_REDIS = "UNSAFE_REDIS"
    UNSAFE_STORE = "UNSAFE_STORE"
    INVALID_SETTINGS = "INVALID_SETTINGS"
    INTERNAL = "INTERNAL"
    # Uploads.
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"
    SIZE_MISMATCH = "SIZE_MISMATCH"
    UPLOAD_TOO_LARGE = "UPLOAD_TOO_LARGE"
    WRONG_OFFSET = "WRONG_OFFSET"
    # Slides.
    EMPTY_IMAGE = "EMPTY_IMAGE"
    UNSUPPORTED_FORMAT = "UNSUPPORTED_FORMAT"
    UNSUPPORTED_PIXEL_FORMAT = "UNSUPPORTED_PIXEL_FORMAT"
    CORRUPT_IMAGE = "CORRUPT_IMAGE"
    IMAGE_TOO_LARGE = "IMAGE_TOO_LARGE"
    IMAGE_TOO_SMALL = "IMAGE_TOO_SMALL"
    REFERENCE_NOT_FOUND = "REFERENCE_NOT_FOUND"
    REFERENCE_DENIED = "REFERENCE_DENIED"
    WORKER_CRASHED = "WORKER_CRASHED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    SLIDE_TIMEOUT = "SLIDE_TIMEOUT"
    ENGINE_FAILED = "ENGINE_FAILED"
    MODEL_UNAVAILABLE = "MODEL_UNAVAILABLE"
    CANCELLED = "CANCELLED"
    EXPIRED = "EXPIRED"
    TOO_MANY_FAILURES = "TOO_MANY_FAILURES"
    NOT_A_SLIDE = "NOT_A_SLIDE"
    SLIDE_UNREADABLE = "SLIDE_UNREADABLE"
    # Artifacts.
    ARTIFACT_INCOMPLETE = "ARTIFACT_INCOMPLETE"
    ARTIFACT_CORRUPT = "ARTIFACT_CORRUPT"
    ARTIFACT_GOLDEN_MISMATCH = "ARTIFACT_GOLDEN_MISMATCH"
    # Optimizations.
    CHECKPOINT_UNREADABLE = "CHECKPOINT_UNREADABLE"
    CHECKPOINT_UNSAFE = "CHECKPOINT_UNSAFE"
    CHECKPOINT_MISMATCH = "CHECKPOINT_MISMATCH"
    UNKNOWN_ARCHITECTURE = "UNKNOWN_ARCHITECTURE"
    INVALID_LABELS = "INVALID_LABELS"
    INVALID_DATASET = "INVALID_DATASET"
    EMPTY_CLASS = "EMPTY_CLASS"
    PARITY_FAILED = "PARITY_FAILED"
    NOT_ACCEPTED = "NOT_ACCEPTED"
    # Doors.
    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    SELF_APPROVAL = "SELF_APPROVAL"
    LABORATORY_QUOTA = "LABORATORY_QUOTA"
    TOO_MANY_CALLS = "TOO_MANY_CALLS"
    STREAM_IDLE = "STREAM_IDLE"
    BATCH_PURGED = "BATCH_PURGED"
    ARTIFACT_UNTRUSTED = "ARTIFACT_UNTRUSTED"
    AUDIT_BROKEN = "AUDIT_BROKEN"
    INSECURE_LISTENER = "INSECURE_LISTENER"
    CPU_TIME_EXCEEDED = "CPU_TIME_EXCEEDED"


class GramserveError(Exception):
    """Anything gramserve can say about a failure.

    `message` says what is wrong and what to do, for a person, and never holds patient data, paths of the host or a
    stack trace. `metadata` holds the same facts for a program. `retry_after_s` is set where trying again can help.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        metadata: Mapping[str, str] = MappingProxyType({}),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata)
        self.retry_after_s = retry_after_s


class InvalidInput(GramserveError):
    """The caller sent something that can never work; `violations` names each (field, what is wrong with it)."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: Sequence[tuple[str, str]] = (),
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(reason, message, metadata=metadata)
        self.violations = tuple(violations)


class NotFound(GramserveError):
    """The named thing does not exist."""


class AlreadyExists(GramserveError):
    """The name or request id is taken by something else."""


class PreconditionFailed(GramserveError):
    """The thing exists but is in the wrong state for this."""


class Conflict(GramserveError):
    """Somebody else changed the thing first."""


class Unauthenticated(GramserveError):
    """No token and no certificate says who calls."""


class PermissionDenied(GramserveError):
    """The caller is known and may not do this."""


class Exhausted(GramserveError):
    """A limit is reached; `retry_after_s` says when to try again."""


class Unavailable(GramserveError):
    """A part of the system cannot be reached; `retry_after_s` says when to try again."""


class DeadlineExceeded(GramserveError):
    """The answer was not there in time; `metadata` says where it can still be read."""


class Unsafe(GramserveError):
    """The service refuses to start on this ground."""


class SlideFailed(GramserveError):
    """One slide cannot be classified. `retryable` says whether another attempt could succeed."""

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        retryable: bool = False,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(reason, message, metadata=metadata)
        self.retryable = retryable


class ArtifactInvalid(GramserveError):
    """An artifact must not serve: incomplete, altered, or wrong numbers on this CPU."""


class NotAccepted(GramserveError):
    """No candidate proved to be as good as the checkpoint."""
