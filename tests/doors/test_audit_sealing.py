"""A day that two gateways make one file of at the same moment is whole."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import date
from pathlib import Path

import pytest

from gramserve.store.audit import AuditLog
from gramserve.store.audit_days import AuditDays
from gramserve.store.audit_record import Action
from gramserve.store.audit_verify import verify
from gramserve.store.objects import LocalObjects, ObjectStore
from tests.doors.test_audit import DAY_S, Clock, objects

__all__ = ["objects"]


@pytest.mark.parametrize("read", [0, 64])
async def test_two_that_seal_a_day_at_once_keep_all_of_it(objects: ObjectStore, read: int) -> None:
    clock = Clock()
    log = AuditLog(objects, clock=clock)
    for n in range(70):  # more than are read together
        await log.record(Action.RESULTS_READ, str(n))
    clock.now_s += DAY_S
    await log.append(None)
    head = await AuditDays(objects).head(date(2026, 11, 27))

    class Slower(AuditDays):
        """Another process seals the day while this one has `read` groups of it."""

        async def groups(self, day: date, *, after: int = 0) -> AsyncIterator[bytes]:
            count = 0
            if not read:
                await AuditDays(objects).seal(head)
            async for group in super().groups(day, after=after):
                yield group
                count += 1
                if count == read:
                    await AuditDays(objects).seal(head)

    assert await Slower(objects).seal(head) == []
    assert await AuditDays(objects).sealed() == [date(2026, 11, 26)]
    assert (await verify(objects)).head.number == 71


async def test_turning_the_day_looks_at_none_of_the_many_groups_of_an_open_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = AuditLog(LocalObjects(tmp_path / "store"), clock=Clock())
    for n in range(3):
        await log.record(Action.RESULTS_READ, str(n))
    scan, scanned = os.scandir, []

    def listed(folder: str) -> object:
        scanned.append(folder.removeprefix(f"{tmp_path}/store/"))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", listed)
    assert (await log.turn_day()).group == 3
    assert set(scanned) == {"audit", "audit/open"}


async def test_the_end_of_a_long_day_is_found_without_reading_the_day(tmp_path: Path) -> None:
    class Folder(LocalObjects):
        async def get(self, path: str) -> bytes:
            assert not path.startswith("audit/2")
            return await super().get(path)

    objects, clock = Folder(tmp_path / "store"), Clock()
    log = AuditLog(objects, clock=clock)
    await asyncio.gather(*(log.record(Action.RESULTS_READ, str(n)) for n in range(200)))
    clock.now_s += DAY_S
    head = await log.turn_day()
    assert await AuditDays(objects).sealed() == [date(2026, 11, 26)]
    assert (head.number, head.day) == (201, date(2026, 11, 27))
    assert await AuditDays(objects).head(head.day) == head
