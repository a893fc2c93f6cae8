"""Our errors as google.rpc statuses, and back, without a server."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from gramserve import errors
from gramserve.errors import GramserveError, InvalidInput, Reason
from gramserve.rpc.status import CODES, code_of, from_status, to_status


def _info(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    return info


def test_every_class_of_the_tree_has_a_code() -> None:
    kinds = {k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, GramserveError)}
    assert kinds == set(CODES)


@pytest.mark.parametrize("kind", list(CODES), ids=lambda kind: kind.__name__)
def test_every_error_carries_its_reason_its_domain_and_its_metadata(kind: type[GramserveError]) -> None:
    status = to_status(kind(Reason.QUEUE_FULL, "words", metadata={"limit": "3"}))
    assert status.code == CODES[kind]
    assert status.message == "words"
    info = _info(status)
    assert (info.reason, info.domain, dict(info.metadata)) == ("QUEUE_FULL", "gramserve", {"limit": "3"})


def test_a_subclass_has_the_code_of_its_nearest_parent() -> None:
    class StoreGone(errors.Unavailable):
        pass

    assert code_of(StoreGone(Reason.STORE_UNAVAILABLE, "gone")) == code_pb2.UNAVAILABLE


@pytest.mark.parametrize(
    "kind",
    [
        errors.InvalidInput,
        errors.NotFound,
        errors.AlreadyExists,
        errors.PreconditionFailed,
        errors.Conflict,
        errors.Exhausted,
        errors.Unavailable,
        errors.ArtifactInvalid,
    ],
)
def test_an_error_comes_back_as_what_it_was(kind: type[GramserveError]) -> None:
    back = from_status(to_status(kind(Reason.STALE_ETAG, "words", metadata={"a": "b"})))
    assert type(back) is kind
    assert (back.reason, back.message, back.metadata) == (Reason.STALE_ETAG, "words", {"a": "b"})
    assert back.retry_after_s is None


def test_the_time_to_wait_comes_back() -> None:
    back = from_status(to_status(errors.Exhausted(Reason.QUEUE_FULL, "full", retry_after_s=2.5)))
    assert back.retry_after_s == 2.5


def test_the_wrong_fields_come_back() -> None:
    error = InvalidInput(Reason.INVALID_FIELD, "wrong", violations=[("slides[3].images", "is empty"), ("model", "no")])
    back = from_status(to_status(error))
    assert isinstance(back, InvalidInput)
    assert back.violations == error.violations


def test_a_reason_of_a_newer_release_becomes_INTERNAL_and_keeps_its_words() -> None:
    status = to_status(errors.NotFound(Reason.UNKNOWN_BATCH, "gone"))
    status.details[0].Pack(error_details_pb2.ErrorInfo(reason="FROM_THE_FUTURE", domain="gramserve"))
    back = from_status(status)
    assert type(back) is errors.NotFound
    assert (back.reason, back.message) == (Reason.INTERNAL, "gone")


def test_ten_thousand_wrong_fields_still_fit_into_a_trailer() -> None:
    error = InvalidInput(
        Reason.INVALID_FIELD, "x" * 20_000, violations=[(f"slides[{i}].slide_id", "y" * 500) for i in range(10_000)]
    )
    status = to_status(error)
    assert status.ByteSize() < 4_000  # base64 makes it a third longer, the message travels twice; gRPC allows 8 KiB
    back = from_status(status)
    assert isinstance(back, InvalidInput)
    assert back.violations[0][0] == "slides[0].slide_id"
    assert back.violations[-1][1].startswith("and ")


def test_metadata_that_is_too_long_is_cut_and_the_reason_stays() -> None:
    status = to_status(errors.NotFound(Reason.UNKNOWN_BATCH, "gone", metadata={"a": "z" * 50_000}))
    assert status.ByteSize() < 4_000
    assert from_status(status).reason is Reason.UNKNOWN_BATCH
