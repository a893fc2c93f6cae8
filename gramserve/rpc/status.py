"""The one table from our errors to gRPC status codes with google.rpc details, and back."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from gramserve import errors
from gramserve.errors import GramserveError, Reason

DOMAIN = "gramserve"

_MESSAGE_BYTES, _METADATA_BYTES, _VIOLATIONS_BYTES = 800, 800, 1_600

CODES: dict[type[GramserveError], int] = {
    errors.InvalidInput: code_pb2.INVALID_ARGUMENT,
    errors.NotFound: code_pb2.NOT_FOUND,
    errors.AlreadyExists: code_pb2.ALREADY_EXISTS,
    errors.PreconditionFailed: code_pb2.FAILED_PRECONDITION,
    errors.Conflict: code_pb2.ABORTED,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.Exhausted: code_pb2.RESOURCE_EXHAUSTED,
    errors.Unavailable: code_pb2.UNAVAILABLE,
    errors.DeadlineExceeded: code_pb2.DEADLINE_EXCEEDED,
    errors.Unsafe: code_pb2.FAILED_PRECONDITION,
    errors.SlideFailed: code_pb2.FAILED_PRECONDITION,
    errors.ArtifactInvalid: code_pb2.DATA_LOSS,
    errors.NotAccepted: code_pb2.FAILED_PRECONDITION,
    GramserveError: code_pb2.INTERNAL,
}

# What a client gets back for a code; where several errors share a code the most general one.
_CLASSES: dict[int, type[GramserveError]] = {
    code_pb2.INVALID_ARGUMENT: errors.InvalidInput,
    code_pb2.NOT_FOUND: errors.NotFound,
    code_pb2.ALREADY_EXISTS: errors.AlreadyExists,
    code_pb2.FAILED_PRECONDITION: errors.PreconditionFailed,
    code_pb2.ABORTED: errors.Conflict,
    code_pb2.UNAUTHENTICATED: errors.Unauthenticated,
    code_pb2.PERMISSION_DENIED: errors.PermissionDenied,
    code_pb2.RESOURCE_EXHAUSTED: errors.Exhausted,
    code_pb2.UNAVAILABLE: errors.Unavailable,
    code_pb2.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    code_pb2.DATA_LOSS: errors.ArtifactInvalid,
}

# Only for answers that no gramserve service made: proxies and the transport itself.
_BARE_REASONS: dict[grpc.StatusCode, Reason] = {
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.MESSAGE_TOO_LARGE,
    grpc.StatusCode.UNAVAILABLE: Reason.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.SERVICE_UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED: Reason.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: Reason.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED: Reason.UNKNOWN_METHOD,
}

_TOO_MANY_OF_GRPC = "Concurrent RPC limit exceeded"


def code_of(error: GramserveError) -> int:
    """The google.rpc.Code of an error: that of the nearest class in CODES."""
    return next(CODES[cls] for cls in type(error).__mro__ if cls in CODES)


def _packed(
    detail: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest | error_details_pb2.RetryInfo,
) -> any_pb2.Any:
    box = any_pb2.Any()
    box.Pack(detail)
    return box


def to_status(error: GramserveError) -> status_pb2.Status:
    """A google.rpc.Status with ErrorInfo always, BadRequest for violations, RetryInfo where retrying can help.

    It travels in a trailer, which gRPC cuts off at 8 KiB: what is long is shortened here, so that the error arrives.
    """
    info = error_details_pb2.ErrorInfo(reason=error.reason.value, domain=DOMAIN)
    for key, value in error.metadata.items():
        if info.ByteSize() + len(key) < _METADATA_BYTES:
            info.metadata[key] = _short(value, _METADATA_BYTES - info.ByteSize() - len(key))
    details = [_packed(info)]
    if isinstance(error, errors.InvalidInput) and error.violations:
        details.append(_packed(_bad_request(error.violations)))
    if error.retry_after_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(datetime.timedelta(seconds=error.retry_after_s))
        details.append(_packed(retry))
    return status_pb2.Status(code=code_of(error), message=_short(error.message, _MESSAGE_BYTES), details=details)


def _bad_request(violations: Sequence[tuple[str, str]]) -> error_details_pb2.BadRequest:
    """The first violations, and how many more there are."""
    bad = error_details_pb2.BadRequest()
    for number, (field, what) in enumerate(violations):
        if bad.ByteSize() > _VIOLATIONS_BYTES:
            bad.field_violations.add(field=field[:100], description=f"and {len(violations) - number} more")
            break
        bad.field_violations.add(field=_short(field, 200), description=_short(what, 400))
    return bad


def _short(text: str, max_bytes: int) -> str:
    """`text`, cut at a character when it is longer than `max_bytes` in UTF-8."""
    data = text.encode(errors="replace")
    return text if len(data) <= max_bytes else data[: max(max_bytes - 3, 0)].decode(errors="ignore") + "..."


def from_status(status: status_pb2.Status) -> GramserveError:
    """The error that `to_status` described; a reason this version does not know becomes INTERNAL."""
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    for detail in status.details:
        for kind in (info, bad, retry):
            if detail.Is(kind.DESCRIPTOR):
                detail.Unpack(kind)
    reason = Reason.__members__.get(info.reason, Reason.INTERNAL)
    cls = _CLASSES.get(status.code, GramserveError)
    if cls is errors.InvalidInput:
        return errors.InvalidInput(
            reason,
            status.message,
            violations=[(v.field, v.description) for v in bad.field_violations],
            metadata=info.metadata,
        )
    retry_after_s = retry.retry_delay.ToTimedelta().total_seconds() if retry.HasField("retry_delay") else None
    return cls(reason, status.message, metadata=info.metadata, retry_after_s=retry_after_s)


def from_rpc_error(error: grpc.RpcError) -> GramserveError:
    """What a client raises for a failed call."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # code and details disagree: something between us and the service rewrote the code
        status = None
    if status is not None and status.details:
        return from_status(status)
    code: grpc.StatusCode = error.code()
    number: int = code.value[0]
    reason = _BARE_REASONS.get(code, Reason.INTERNAL)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and (error.details() or "").startswith(_TOO_MANY_OF_GRPC):
        return errors.Exhausted(Reason.TOO_MANY_CALLS, "the service has too many calls at once", retry_after_s=1.0)
    message = {
        Reason.SERVICE_UNAVAILABLE: "the service cannot be reached or did not answer in time; is it running?",
        Reason.MESSAGE_TOO_LARGE: "the message is larger than the service receives; upload images or split the batch",
        Reason.UNKNOWN_METHOD: "the service does not have this call; is it an older version?",
    }.get(reason, f"the call failed with {code.name}")
    if number == code_pb2.DEADLINE_EXCEEDED:
        return errors.Unavailable(reason, message)
    return _CLASSES.get(number, GramserveError)(reason, message)
