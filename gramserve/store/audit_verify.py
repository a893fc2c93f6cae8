"""Is the audit record what was written? Every line, every day, and what an auditor knew before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import date

from gramserve.store.audit_days import AuditBroken, AuditDays, next_day
from gramserve.store.audit_record import Action, AuditRecord, line_hash, parse_line
from gramserve.store.codec import Record, RecordCorrupt
from gramserve.store.objects import ObjectMissing, ObjectStore

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Anchor(Record):
    """The end of the record as it was once verified: kept outside of the store, it shows what is cut off later."""

    number: int
    hash: str


@dataclass(frozen=True, slots=True)
class Verified:
    """The record from number `first` to that of `head` is whole; `days` begin with the first that is kept."""

    first: int
    head: Anchor
    days: int


async def read_audit(objects: ObjectStore) -> AsyncIterator[AuditRecord]:
    """All records in their order, each verified against the one before; raises AuditBroken where that fails."""
    async for record, _ in _Walk(objects).records():
        yield record


async def verify(objects: ObjectStore, anchor: Anchor | None = None) -> Verified:
    """Verifies the whole record; raises AuditBroken at the first line, day or end that is not what was written.

    Without an `anchor` a record that was cut off at its end, or written anew from some line on, is not noticed.
    """
    for _ in range(_TRIES - 1):
        with suppress(AuditBroken, ObjectMissing):  # a day that is sealed while it is read looks broken, once
            return await _verify(objects, anchor)
    return await _verify(objects, anchor)


async def _verify(objects: ObjectStore, anchor: Anchor | None) -> Verified:
    start = await AuditDays(objects).known_start()
    if start is None:
        if anchor is not None and anchor.number:
            raise AuditBroken("the record", "is gone")
        return Verified(1, Anchor(0, ""), 0)
    head, days = Anchor(start.number, start.hash), set[date]()
    explained = start.number == 0
    if anchor is not None and anchor.number < start.number:
        raise AuditBroken("the anchor", f"is older than record {start.number + 1}, the first that was not purged")
    _compare(head, anchor)
    async for record, digest in _Walk(objects).records():
        head = Anchor(record.number, digest)
        days.add(record.day)
        moved = record.action == Action.AUDIT_PURGE and record.detail
        explained |= moved == {"number": start.number, "hash": start.hash}
        _compare(head, anchor)
    if anchor is not None and anchor.number > head.number:
        raise AuditBroken(f"record {head.number}", f"is the last, and record {anchor.number} was there: it was cut off")
    if not explained:
        raise AuditBroken("the start", "was moved, and no record says that days were purged")
    return Verified(start.number + 1, head, len(days))


def _compare(head: Anchor, anchor: Anchor | None) -> None:
    if anchor is not None and anchor.number == head.number and anchor.hash != head.hash:
        raise AuditBroken(f"record {head.number}", "is not the one that was verified before")


class _Walk:
    """One way through the record, from its first day to its open one."""

    def __init__(self, objects: ObjectStore) -> None:
        self._days = AuditDays(objects)
        self._groups = 0

    async def records(self) -> AsyncIterator[tuple[AuditRecord, str]]:
        """Each record with the hash of its line."""
        start = await self._days.known_start()
        if start is None:
            return
        sealed = set(await self._days.sealed())
        number, previous, time = start.number, start.hash, ""
        day, following = date.fromisoformat(start.day), None
        while True:
            place, following = 0, None
            async for line in self._lines(day, sealed):
                place += 1
                where = f"line {place} of {day.isoformat()}"
                if following is not None:
                    raise AuditBroken(where, "stands behind the end of its day")
                try:
                    record = parse_line(line)
                    following = next_day(record)
                except RecordCorrupt:
                    raise AuditBroken(where, "is no record") from None
                if record.number != number + 1:
                    raise AuditBroken(where, f"has number {record.number} where {number + 1} belongs")
                if record.previous != previous:
                    raise AuditBroken(where, "does not follow the line before it: one of the two was edited")
                if record.time < time or record.day != day:
                    raise AuditBroken(where, "has a time that does not fit its place")
                number, previous, time = record.number, line_hash(line), record.time
                yield record, previous
            if following is None:
                break
            if following <= day:
                raise AuditBroken(f"the end of {day.isoformat()}", "names a day before it")
            day = following
        if day in sealed:
            raise AuditBroken(f"the end of {day.isoformat()}", "is missing")
        if behind := sorted(other for other in sealed if other > day):
            raise AuditBroken(behind[0].isoformat(), "does not follow any other day")
        await self._check_open(day)

    async def _lines(self, day: date, sealed: set[date]) -> AsyncIterator[bytes]:
        self._groups = 0
        if day in sealed:
            for line in (await self._days.day(day)).splitlines(keepends=True):
                yield line
            return
        async for group in self._days.groups(day):
            self._groups += 1
            for line in group.splitlines(keepends=True):
                yield line

    async def _check_open(self, last: date) -> None:
        """No group stands behind a gap, or on a day that nothing leads to; what was appended meanwhile may."""
        expected = self._groups + 1
        async for day, group in self._days.open_groups():
            if day < last or (day == last and group < expected):
                continue
            if day > last or group > expected:
                if await self._days.has_group(last, expected):
                    return
                if day > last:
                    raise AuditBroken(day.isoformat(), "does not follow any other day")
                raise AuditBroken(f"group {group} of {day.isoformat()}", "stands behind a gap")
            expected += 1
