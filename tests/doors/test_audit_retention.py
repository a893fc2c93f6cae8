"""Days of the audit record that go at the end of their retention, and the commands of an auditor."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.errors import GramserveError
from gramserve.store.audit import AuditLog
from gramserve.store.audit_days import AuditBroken, AuditDays, Start
from gramserve.store.audit_record import Action, line_hash
from gramserve.store.audit_verify import read_audit, verify
from gramserve.store.objects import LocalObjects
from gramserve.store.purge import Purger
from gramserve.store.retention import DAY_S, RetentionDays
from tests.doors.test_audit import Clock
from tests.doors.test_retention import BreaksOff, command, paths


async def filled(tmp_path: Path, days: int = 6) -> tuple[LocalObjects, Clock, AuditLog]:
    objects, clock = LocalObjects(tmp_path / "store"), Clock()
    log = AuditLog(objects, clock=clock)
    for day in range(days):
        await log.record(Action.BATCH_CREATE, f"{day}")
        clock.now_s += DAY_S
        await log.turn_day()
    return objects, clock, log


async def test_old_days_of_the_audit_record_go_and_what_is_left_is_still_verified(tmp_path: Path) -> None:
    objects, clock, log = await filled(tmp_path)
    anchor = (await verify(objects)).head
    keep = RetentionDays(audit=3)
    assert (await Purger(objects, keep, log, clock=clock).purge())["audit"] == 3
    assert len(await AuditDays(objects).sealed()) == 3
    verified = await verify(objects, anchor)
    assert (verified.first, verified.head.number) == (7, 13)
    await log.record(Action.BATCH_CREATE, "later")
    await verify(objects, verified.head)


async def test_the_empty_folder_of_a_day_that_went_breaks_nothing(tmp_path: Path) -> None:
    """Storages compatible with S3 can name folders that have nothing in them any more."""
    objects, clock, log = await filled(tmp_path)
    assert (await Purger(objects, RetentionDays(audit=3), log, clock=clock).purge())["audit"] == 3
    (tmp_path / "store" / "audit" / "open" / "2026-11-26").mkdir()
    await log.turn_day()
    await verify(objects)


async def test_days_that_somebody_took_away_as_if_they_had_been_purged_are_missed(tmp_path: Path) -> None:
    objects, _, _ = await filled(tmp_path)
    first = [record async for record in read_audit(objects)][1]
    await AuditDays(objects).move_start(Start("2026-11-27", first.number, line_hash(first.line())))
    await objects.delete("audit/2026-11-26.jsonl")
    with pytest.raises(AuditBroken, match="no record says"):
        await verify(objects)


@pytest.mark.parametrize("step", range(6))
async def test_a_purge_of_the_record_that_breaks_off_anywhere_leaves_it_whole(tmp_path: Path, step: int) -> None:
    objects, clock, _ = await filled(tmp_path)
    breaking = BreaksOff(str(tmp_path / "store"), step)
    keep = RetentionDays(audit=3)
    with suppress(GramserveError):
        await Purger(breaking, keep, AuditLog(breaking, clock=clock), clock=clock).purge()
    await verify(objects)
    await Purger(objects, keep, AuditLog(objects, clock=clock), clock=clock).purge()
    assert len(await AuditDays(objects).sealed()) == 3
    await verify(objects)


# The commands of an auditor.


async def test_audit_verify_keeps_an_anchor_and_exits_with_1_when_the_record_is_broken(tmp_path: Path) -> None:
    objects, _, log = await filled(tmp_path, days=2)
    anchor = tmp_path / "anchor.json"
    words = ["audit", "verify", "--store", str(tmp_path / "store"), "--anchor", str(anchor)]
    assert "4 records of 2 days are whole" in await command(*words)
    await log.record(Action.BATCH_CREATE, "later")
    await command(*words)
    assert json.loads(anchor.read_text())["number"] == 5
    for path in await paths(objects, "audit/open"):
        await objects.delete(path)
    broken = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert broken.exit_code == 1
    assert "cut off" in broken.output
    assert "AUDIT_BROKEN" in broken.output
    assert json.loads(anchor.read_text())["number"] == 5  # not moved back


async def test_audit_show_shows_what_is_asked_for(tmp_path: Path) -> None:
    await filled(tmp_path, days=2)
    store = ("--store", str(tmp_path / "store"))
    assert (await command("audit", "show", *store)).count("\n") == 4
    assert (await command("audit", "show", *store, "--action", "batch.create")).count("\n") == 2
    lines = (await command("audit", "show", *store, "--day", "2026-11-27", "--json")).splitlines()
    assert [json.loads(line)["object"] for line in lines] == ["1", "audit"]
    assert await command("audit", "show", *store, "--actor", "nobody") == ""
