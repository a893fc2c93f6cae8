"""When results must be delivered, as a person writes it."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from gramserve.errors import InvalidInput, Reason


def parse_due(text: str, now: datetime) -> datetime:
    """HH:MM is the next time the clock shows it, in the zone of `now`; else ISO 8601, in that zone unless it names one.

    Raises InvalidInput (INVALID_FIELD; DEADLINE_PASSED for a moment before `now`).
    """
    if match := re.fullmatch(r"([01]?\d|2[0-3]):([0-5]\d)", text):
        due = now.replace(hour=int(match[1]), minute=int(match[2]), second=0, microsecond=0)
        return due if due > now else due + timedelta(days=1)
    try:
        due = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            Reason.INVALID_FIELD, "--due must be HH:MM, or a date and time such as 2027-01-31T06:30"
        ) from None
    if due.tzinfo is None:
        due = due.replace(tzinfo=now.tzinfo)
    if due <= now:
        raise InvalidInput(Reason.DEADLINE_PASSED, f"--due {text} has passed")
    return due
