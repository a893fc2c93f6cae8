"""The audit record: append-only, and one order for all who write to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, date, datetime

from gramserve.access.principal import SYSTEM, current
from gramserve.errors import GramserveError
from gramserve.store.audit_days import AuditBroken, AuditDays, Head, group_path
from gramserve.store.audit_record import Action, AuditRecord, Deed, line_hash, time_text
from gramserve.store.codec import RecordCorrupt
from gramserve.store.disk import random_token
from gramserve.store.faults import unavailable
from gramserve.store.objects import ObjectMissing, ObjectStore

MOST_TOGETHER = 1024
_TRIES = 100


class AuditLog:
    """Appends to the record in `objects`; any number of processes may do so at once.

    One commit is under way at a time, and what comes meanwhile goes with the next one: a deed waits for at most two.
    `clock` gives Unix seconds, `writer` tells the writers apart, `on_head` hears number and hash of the last record.
    """

    def __init__(
        self,
        objects: ObjectStore,
        *,
        clock: Callable[[], float] = time.time,
        writer: str = "",
        on_head: Callable[[int, str], None] = lambda number, head: None,
    ) -> None:
        self._objects = objects
        self._days = AuditDays(objects)
        self._clock = clock
        self._writer = writer or random_token()
        self._on_head = on_head
        self._head: Head | None = None
        self._waiting: list[tuple[Deed | None, asyncio.Future[None]]] = []
        self._committing: asyncio.Task[None] | None = None

    async def record(
        self, action: Action, name: str, *, artifact: str = "", actor: str = "", **detail: str | int
    ) -> None:
        """Records that whoever called did `action` with the object `name`; durable when it returns.

        Whoever calls this does it before the deed: what cannot be recorded is not done. So a record can stand for a
        deed that then failed, and no deed is without its record.
        Raises Unavailable, Exhausted (STORE_FULL) and AuditBroken: nothing must be done then.
        """
        await self.append(Deed(action, name, artifact, detail, actor or current().name))

    async def append(self, deed: Deed | None) -> None:
        """Records `deed`: see `record`. None only closes the open day if it is over."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((deed, done))
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit_all(), name="audit")
        await done

    async def turn_day(self) -> Head:
        """Closes the open day when it is over, and makes one file of every closed day; returns the end of the record.

        Raises what `record` raises.
        """
        await self.append(None)
        head = await self._days.head(self._today())
        await self._days.seal(head)
        return head

    async def _commit_all(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MOST_TOGETHER], self._waiting[MOST_TOGETHER:]
            failure: GramserveError | None = unavailable()
            try:
                await self._commit([deed for deed, _ in group if deed is not None])
                failure = None
            except ObjectMissing:  # while another writer sealed a day
                pass
            except RecordCorrupt:
                failure = AuditBroken("its end", "cannot be read")
            except GramserveError as error:
                failure = error
            finally:
                if failure is not None:
                    self._head = None  # what became of the group is seen at the next look
                for _, done in group:
                    if not done.done():  # else its caller has gone
                        done.set_result(None) if failure is None else done.set_exception(failure)

    async def _commit(self, deeds: list[Deed]) -> None:
        head = self._head or await self._days.head(self._today())
        for _ in range(_TRIES):
            now = max(time_text(self._clock()), head.time)
            today = date.fromisoformat(now[:10])
            if closing := today > head.day:
                lines = self._lines(head, [close_day(today)], max(head.time, f"{head.day.isoformat()}T00:00:00.000Z"))
            elif deeds:
                # A day that another writer began ahead of our clock is the day of what follows.
                lines = self._lines(head, deeds, max(now, f"{head.day.isoformat()}T00:00:00.000Z"))
            else:
                break
            try:
                if not await self._wrote(head, lines):
                    head = await self._days.follow(head)
                    continue
            except ObjectMissing:
                head = await self._days.head(today)
                continue
            head = head.after(lines)
            if not closing:
                break
        else:
            raise unavailable()
        self._head = head
        self._on_head(head.number, head.hash)

    async def _wrote(self, head: Head, lines: bytes) -> bool:
        """Whether `lines` are now the group behind `head`; False when another writer was faster.

        Raises ObjectMissing when the day of `head` is one file already: we were away for so long.
        """
        path = group_path(head.day, head.group + 1)
        if not await self._objects.create(path, lines):
            # Perhaps this is ours all the same, and the answer of the storage was lost.
            return await self._objects.get(path) == lines
        if await self._days.is_sealed(head.day):
            await self._objects.delete(path)  # it is no part of that day
            raise ObjectMissing
        return True

    def _lines(self, head: Head, deeds: list[Deed], now: str) -> bytes:
        lines, number, previous = [], head.number, head.hash
        for deed in deeds:
            number += 1
            record = AuditRecord(
                number=number,
                time=now,
                writer=self._writer,
                actor=deed.actor,
                action=deed.action,
                object=deed.object,
                artifact=deed.artifact,
                detail=deed.detail,
                previous=previous,
            )
            lines.append(record.line())
            previous = line_hash(lines[-1])
        return b"".join(lines)

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock(), UTC).date()


def close_day(following: date) -> Deed:
    """What stands last in the file of a day: it goes on with the day `following`."""
    return Deed(Action.AUDIT_CLOSE_DAY, "audit", detail={"next": following.isoformat()}, actor=SYSTEM)
