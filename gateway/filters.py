"""Filters of listings: comparisons with "=", joined by AND."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gramserve.errors import InvalidInput, Reason
from gramserve.store.records import BatchState, Priority, SlideState

BATCH_FIELDS: Mapping[str, Collection[str]] = {"state": set(BatchState), "priority": set(Priority)}
SLIDE_FIELDS: Mapping[str, Collection[str]] = {"state": set(SlideState), "review_required": {"true", "false"}}


def parse_filter(text: str, fields: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Field to wanted value; `fields` has the values each field can have. Raises InvalidInput (INVALID_FILTER)."""
    wanted: dict[str, str] = {}
    for term in text.split(" AND ") if text.strip() else []:
        name, equals, value = (part.strip() for part in term.partition("="))
        value = value.strip('"')
        if not equals or name not in fields:
            raise _unreadable(f"is made of comparisons such as {next(iter(fields))}=..., joined by AND")
        if value not in fields[name]:
            raise _unreadable(f"{name} is one of {', '.join(sorted(fields[name]))}")
        if wanted.setdefault(name, value) != value:
            raise _unreadable(f"{name} cannot have two values")
    return wanted


def _unreadable(what: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_FILTER, f"filter: {what}", violations=[("filter", what)])
