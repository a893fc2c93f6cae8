"""The exception tree."""

from __future__ import annotations

import pytest

from gramserve import errors
from gramserve.errors import GramserveError, InvalidInput, Reason, SlideFailed


def _tree() -> list[type[GramserveError]]:
    return [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, GramserveError) and kind is not GramserveError
    ]


def test_the_tree_drawn_in_the_module_is_the_tree_in_the_code() -> None:
    drawn = [line.split()[1] for line in (errors.__doc__ or "").splitlines() if line.startswith(("├──", "└──"))]
    assert drawn == [kind.__name__ for kind in _tree()]


@pytest.mark.parametrize("kind", _tree())
def test_every_error_says_what_is_wrong_to_people_and_to_programs(kind: type[GramserveError]) -> None:
    error = kind(Reason.INTERNAL, "what to do", metadata={"field": "x"})
    assert str(error) == error.message == "what to do"
    assert error.reason is Reason.INTERNAL
    assert error.metadata == {"field": "x"}
    assert error.retry_after_s is None
    assert kind.__doc__


def test_two_errors_do_not_share_their_metadata() -> None:
    first, second = GramserveError(Reason.INTERNAL, "a"), GramserveError(Reason.INTERNAL, "b")
    first.metadata["x"] = "1"
    assert second.metadata == {}


def test_invalid_input_names_each_wrong_field() -> None:
    error = InvalidInput(Reason.INVALID_FIELD, "two fields are wrong", violations=[("a", "too long"), ("b", "absent")])
    assert error.violations == (("a", "too long"), ("b", "absent"))


def test_a_failed_slide_is_not_retried_unless_it_says_so() -> None:
    assert not SlideFailed(Reason.CORRUPT_IMAGE, "cut off").retryable
    assert SlideFailed(Reason.OUT_OF_MEMORY, "no memory", retryable=True).retryable


def test_a_reason_reads_the_same_in_the_code_and_on_the_wire() -> None:
    assert all(reason.name == reason.value for reason in Reason)
