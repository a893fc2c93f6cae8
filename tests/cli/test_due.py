"""Times of delivery as a person writes them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from gramserve.cli.due import parse_due
from gramserve.errors import InvalidInput, Reason

ZONE = timezone(timedelta(hours=2))
NOW = datetime(2027, 1, 31, 22, 15, tzinfo=ZONE)


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("23:00", datetime(2027, 1, 31, 23, 0, tzinfo=ZONE)),
        ("06:30", datetime(2027, 2, 1, 6, 30, tzinfo=ZONE)),
        ("6:30", datetime(2027, 2, 1, 6, 30, tzinfo=ZONE)),
        ("22:15", datetime(2027, 2, 1, 22, 15, tzinfo=ZONE)),
        ("2027-02-02T06:30", datetime(2027, 2, 2, 6, 30, tzinfo=ZONE)),
        ("2027-02-02T06:30Z", datetime(2027, 2, 2, 6, 30, tzinfo=UTC)),
    ],
)
def test_a_clock_time_is_the_next_one_and_a_date_is_itself(text: str, due: datetime) -> None:
    assert parse_due(text, NOW) == due


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("25:00", Reason.INVALID_FIELD),
        ("tomorrow", Reason.INVALID_FIELD),
        ("", Reason.INVALID_FIELD),
        ("2027-01-31T22:00", Reason.DEADLINE_PASSED),
    ],
)
def test_what_is_no_time_to_come_is_refused(text: str, reason: Reason) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_due(text, NOW)
    assert caught.value.reason is reason
