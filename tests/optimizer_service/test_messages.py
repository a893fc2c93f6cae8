"""What passes between the service and its job process, and what a failure is as data."""

from __future__ import annotations

import pytest

from gramserve.errors import GramserveError, InvalidInput, NotAccepted, NotFound, Reason
from gramserve.store.faults import ObjectMissing
from optimizer_svc.messages import Broken, Done, Failed, Going, Message, Stopped, pack, unpack
from optimizer_svc.process import job_environment
from optimizer_svc.records import FailureRecord
from optimizer_svc.spec import TrialRow

INVALID = InvalidInput(Reason.INVALID_LABELS, "wrong", violations=[("labels[0]", "no")], metadata={"a": "b"})


@pytest.mark.parametrize(
    "message",
    [
        Going("PRUNE", "Cutting\nchannels", 0.5),
        Going("MEASURE", "Measuring", 0.7, 60.0, 30.0, (TrialRow("a", "b", "c", "d", None, 0.5, 7, "TRIED", ""),)),
        Done(),
        Stopped(),
        Broken("KeyError in run, line 3"),
        Failed(FailureRecord.of(INVALID)),
    ],
)
def test_a_message_is_one_line_and_comes_back(message: Message) -> None:
    line = pack(message)
    assert line.count(b"\n") == 1
    assert unpack(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[]", b"\xff", b'{"kind":"Exit","fields":{}}', b'{"kind":"Going","fields":{}}']
)
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        unpack(line)


def test_an_error_comes_back_as_what_it_was() -> None:
    for error in (INVALID, NotAccepted(Reason.NOT_ACCEPTED, "none", metadata={"tried": "3"})):
        back = FailureRecord.from_json(FailureRecord.of(error).to_json()).error()
        assert type(back) is type(error)
        assert (back.reason, back.message, back.metadata) == (error.reason, error.message, error.metadata)
    assert isinstance(INVALID, InvalidInput)
    assert FailureRecord.of(INVALID).error().violations == INVALID.violations  # type: ignore[attr-defined]


def test_an_error_that_the_tree_does_not_draw_becomes_its_parent() -> None:
    assert type(FailureRecord.of(ObjectMissing()).error()) is NotFound


def test_an_error_of_a_newer_release_becomes_the_plainest() -> None:
    error = FailureRecord("FromTheFuture", "NEW", "words").error()
    assert type(error) is GramserveError
    assert (error.reason, error.message) == (Reason.INTERNAL, "words")


def test_a_job_knows_no_way_to_the_queue_no_keys_of_the_store_and_stays_offline() -> None:
    environment = job_environment(
        {"GRAMSERVE_REDIS_URL": "x", "GRAMSERVE_STORE_URL": "x", "AWS_SECRET_ACCESS_KEY": "x", "PATH": "/bin"}
    )
    assert not [name for name in environment if name.startswith(("GRAMSERVE_", "AWS_"))]
    assert environment["PATH"] == "/bin"
    assert environment["HF_HUB_OFFLINE"] == "1"
