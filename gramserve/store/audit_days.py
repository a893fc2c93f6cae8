"""Where audit records lie: in groups while their day is open, in one file a day afterwards.

`audit/open/DAY/NUMBER.jsonl` are groups, created if absent: whoever creates a number first has written the next part of
the record, so several writers have one order. The last group of a day is a record AUDIT_CLOSE_DAY that says which day
goes on; nothing can come behind it. Then the groups become `audit/DAY.jsonl`, and are removed after that.
`audit/start.json` says where the record begins: the first day, or what stood last in the days that were purged.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import date

from gramserve.errors import GramserveError, Reason
from gramserve.store.audit_record import NOTHING, Action, AuditRecord, line_hash, parse_line
from gramserve.store.codec import Record, RecordCorrupt
from gramserve.store.objects import ObjectStore

START = "audit/start.json"
_OPEN = "audit/open"
_READ_TOGETHER = 64
_END_BYTES = 2**14


class AuditBroken(GramserveError):
    """The audit record is not what was written: edited, with a gap, reordered or cut off."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__(Reason.AUDIT_BROKEN, f"The audit record is broken: {where} {what}.", metadata={"place": where})


@dataclass(frozen=True, slots=True)
class Start(Record):
    """Where the record begins: on `day`, behind the record `number` whose line has the SHA-256 `hash`."""

    day: str
    number: int = 0
    hash: str = NOTHING


@dataclass(frozen=True, slots=True)
class Head:
    """The end of the record: the open `day`, its last `group`, and number, hash and time of the last record."""

    day: date
    group: int
    number: int
    hash: str
    time: str

    def after(self, lines: bytes) -> Head:
        """The head once the group `lines` was written; raises RecordCorrupt."""
        line = last_line(lines)
        record = parse_line(line)
        head = Head(self.day, self.group + 1, record.number, line_hash(line), record.time)
        following = next_day(record)
        return head if following is None else replace(head, day=following, group=0)


def day_path(day: date) -> str:
    """The file of a day that has ended."""
    return f"audit/{day.isoformat()}.jsonl"


def open_folder(day: date) -> str:
    """The groups of a day that is open, or not yet one file."""
    return f"{_OPEN}/{day.isoformat()}"


def group_path(day: date, group: int) -> str:
    """A group of records, numbered from 1 within its day."""
    return f"{open_folder(day)}/{group:09d}.jsonl"


def last_line(data: bytes) -> bytes:
    """The last line with its line break; raises RecordCorrupt where a line is not ended."""
    if not data.endswith(b"\n"):
        raise RecordCorrupt("AuditRecord")
    return data[data.rfind(b"\n", 0, -1) + 1 :]


def next_day(record: AuditRecord) -> date | None:
    """The day that goes on after `record`, if that closes its own."""
    if record.action != Action.AUDIT_CLOSE_DAY:
        return None
    try:
        return date.fromisoformat(str(record.detail.get("next")))
    except ValueError:
        raise RecordCorrupt("AuditRecord") from None


class AuditDays:
    """Reads and seals the days of the record in `objects`."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def start(self, today: date) -> Start:
        """Where the record begins; `today` if it is empty."""
        wanted = Start(today.isoformat())
        if await self._objects.create(START, wanted.to_json()):
            return wanted
        return Start.from_json(await self._objects.get(START))

    async def known_start(self) -> Start | None:
        """Where the record begins; None while nothing was ever recorded."""
        found = await self._objects.get_tagged(START)
        return None if found is None else Start.from_json(found[0])

    async def move_start(self, start: Start) -> None:
        """Makes the record begin later, before the days in between are removed."""
        await self._objects.put(START, start.to_json())

    async def sealed(self) -> list[date]:
        """The days that are one file, ascending; the groups of open days are not looked at, there may be very many."""
        names = await self._objects.files("audit")
        return [_day(name.removesuffix(".jsonl")) for name in names if name.endswith(".jsonl")]

    async def is_sealed(self, day: date) -> bool:
        """Whether the day is one file."""
        return await self._objects.size(day_path(day)) is not None

    async def day(self, day: date) -> bytes:
        """The file of a sealed day; raises ObjectMissing."""
        return await self._objects.get(day_path(day))

    async def last_of(self, day: date) -> bytes:
        """The last line of a sealed day, without reading the day; raises ObjectMissing, RecordCorrupt."""
        size = await self._objects.size(day_path(day))
        end = (
            b"" if size is None else await self._objects.get_range(day_path(day), max(0, size - _END_BYTES), _END_BYTES)
        )
        return last_line(end if b"\n" in end[:-1] else await self.day(day))

    async def groups(self, day: date, *, after: int = 0) -> AsyncIterator[bytes]:
        """The groups of an open day behind number `after`, in order, up to the first that is missing."""
        while True:
            numbers = range(after + 1, after + 1 + _READ_TOGETHER)
            for data in await self._objects.get_many([group_path(day, number) for number in numbers]):
                if data is None:
                    return
                yield data
            after += _READ_TOGETHER

    async def open_groups(self) -> AsyncIterator[tuple[date, int]]:
        """Day and number of every group, in their order."""
        async for info in self._objects.list(_OPEN):
            name, _, group = info.path.removeprefix(f"{_OPEN}/").partition("/")
            number = group.removesuffix(".jsonl")
            if not number.isdecimal():
                raise AuditBroken(name, "has something in it that is no group of records")
            yield _day(name), int(number)

    async def has_group(self, day: date, group: int) -> bool:
        """Whether the group is there."""
        return await self._objects.size(group_path(day, group)) is not None

    async def head(self, today: date) -> Head:
        """The end of the record as it is now.

        Raises AuditBroken when its last lines cannot be read, ObjectMissing when a day is sealed meanwhile.
        """
        start = await self.start(today)
        head = Head(date.fromisoformat(start.day), 0, start.number, start.hash, "")
        try:
            if sealed := await self.sealed():  # of the last sealed day only its last line matters
                head = Head(sealed[-1], 0, 0, "", "").after(await self.last_of(sealed[-1]))
            return await self.follow(head)
        except RecordCorrupt:
            raise AuditBroken(f"the end of {head.day}", "cannot be read") from None

    async def follow(self, head: Head) -> Head:
        """The head after all groups that were written behind it; raises RecordCorrupt, ObjectMissing."""
        while (last := await self._last_group(head)) > head.group:
            before, head = head, replace(head, group=last - 1)
            head = head.after(await self._objects.get(group_path(before.day, last)))
        return head

    async def _last_group(self, head: Head) -> int:
        """The number of the last group of the open day; numbers have no gap, so a few looks find it among many."""
        there, step = head.group, 1
        while await self.has_group(head.day, there + step):
            there, step = there + step, 2 * step
        while step > 1:
            step //= 2
            if await self.has_group(head.day, there + step):
                there += step
        return there

    async def seal(self, head: Head) -> list[date]:
        """Makes one file of each day before that of `head` which is not one yet; returns those days.

        Safe to break off anywhere and for several writers at once: the groups of a closed day never change, and they
        are removed only behind their file.
        """
        made = []
        sealed = set(await self.sealed())
        for name in await self._objects.folders(_OPEN):
            day = _day(name)
            if day >= head.day:
                break
            if day not in sealed and not await self._is_purged(day):
                try:
                    await self._objects.put_stream(day_path(day), self._closed(day))
                except AuditBroken:
                    # Another writer, which was faster, removes the groups behind its file while we read them.
                    if not await self.is_sealed(day):
                        raise
                else:
                    made.append(day)
            await self._objects.delete_folder(open_folder(day))
        return made

    async def _is_purged(self, day: date) -> bool:
        """Whether the record begins later: some storages name a folder that has been empty for long."""
        start = await self.known_start()
        return start is not None and day < date.fromisoformat(start.day)

    async def remove(self, day: date) -> None:
        """Removes the file of a day."""
        await self._objects.delete(day_path(day))

    async def _closed(self, day: date) -> AsyncIterator[bytes]:
        """All groups of a day, from the first to the one that closes it.

        Raises AuditBroken where one is missing, however late: what was read until then must not become the day.
        """
        listed = 0
        async for _ in self._objects.list(open_folder(day)):
            listed += 1
        count, last = 0, b""
        async for last in self.groups(day):
            count += 1
            yield last
        if not last or count < listed or next_day(parse_line(last_line(last))) is None:
            raise AuditBroken(day.isoformat(), "was never closed")


def _day(name: str) -> date:
    try:
        return date.fromisoformat(name)
    except ValueError:
        raise AuditBroken(name, "is the name of no day") from None
