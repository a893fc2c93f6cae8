"""A night: from noon to noon, by the clock on the wall."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

from gramserve.errors import InvalidInput, Reason

_EVENING = timedelta(hours=18)
_FIRST, _LAST = date(1970, 1, 1), date(9998, 12, 31)
"""Nights beside each of these are days that a computer knows, too."""
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Night:
    """The night that begins on the evening of `day`: `begin` <= time < `end`, Unix seconds; `zone` None is local."""

    day: date
    begin: float
    end: float
    zone: tzinfo | None = None

    @classmethod
    def of(cls, day: date, zone: tzinfo | None = None) -> Night:
        """From noon of `day` to noon of the next day: 23 or 25 hours where the clock is changed in between."""
        noon = datetime.combine(day, time(12), zone)
        following = datetime.combine(day + timedelta(days=1), time(12), zone)
        return cls(day, noon.timestamp(), following.timestamp(), zone)

    @classmethod
    def last(cls, now: float, zone: tzinfo | None = None) -> Night:
        """The night that began on the last evening (18:00) before `now`, Unix seconds; it may still go on."""
        return cls.of((datetime.fromtimestamp(now, zone) - _EVENING).date(), zone)

    def before(self, nights: int) -> Night:
        """The night that began `nights` days earlier."""
        return Night.of(self.day - timedelta(days=nights), self.zone)

    def local(self, at: float) -> datetime:
        """The Unix time `at` by the clock on the wall."""
        return datetime.fromtimestamp(at, self.zone).astimezone(self.zone)


def parse_day(text: str) -> date:
    """The day that "2026-11-25" names, of the years 1970 to 9998; raises InvalidInput (INVALID_FIELD)."""
    what = "must be a day such as 2026-11-25"
    try:
        # fromisoformat takes other ways to write a day, too.
        day = date.fromisoformat(text if _DAY.fullmatch(text) else "")
    except ValueError:
        raise InvalidInput(Reason.INVALID_FIELD, f"a night {what}", violations=[("night", what)]) from None
    if not _FIRST <= day <= _LAST:
        what = f"must be from {_FIRST} to {_LAST}"
        raise InvalidInput(Reason.INVALID_FIELD, f"a night {what}", violations=[("night", what)])
    return day
