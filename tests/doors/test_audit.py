"""The audit record: one order, nothing lost, and nothing changed without being found."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from gramserve.access.principal import Principal, Role, acting_as
from gramserve.errors import GramserveError, Reason, Unavailable
from gramserve.store.audit import AuditLog
from gramserve.store.audit_days import AuditBroken, AuditDays
from gramserve.store.audit_record import Action, line_hash, parse_line
from gramserve.store.audit_verify import Anchor, read_audit, verify
from gramserve.store.faults import unavailable
from gramserve.store.objects import LocalObjects, ObjectStore, RemoteObjects, open_store

DAY_S = 86_400.0
NOON = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
BATCH = "laboratories/north/slideBatches/night-1"


class Clock:
    """Unix time that only a test moves."""

    def __init__(self, now_s: float = NOON) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture(params=["folder", "obstore", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return LocalObjects(tmp_path / "store")
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_url"))
    return RemoteObjects(MemoryStore(), "s3://bucket/prefix")


async def fill(objects: ObjectStore, clock: Clock, days: int = 3, each: int = 4) -> AuditLog:
    """A record of some days, all but the last of them sealed."""
    log = AuditLog(objects, clock=clock)
    for day in range(days):
        for n in range(each):
            await log.record(Action.BATCH_CREATE, f"{BATCH}{day}", artifact="a" * 64, slides=n)
            clock.now_s += 60
        if day + 1 < days:
            clock.now_s += DAY_S
            await log.turn_day()
    return log


async def test_a_record_says_who_did_what_with_which_object_and_artifact(objects: ObjectStore) -> None:
    log = AuditLog(objects, clock=Clock())
    with acting_as(Principal("dr-koch", frozenset({Role.SUBMITTER}), frozenset({"north"}))):
        await log.record(Action.BATCH_CREATE, BATCH, artifact="a" * 64, slides=32)
    (record,) = [record async for record in read_audit(objects)]
    assert (record.number, record.actor, record.action, record.object) == (1, "dr-koch", "batch.create", BATCH)
    assert (record.artifact, record.detail, record.time) == ("a" * 64, {"slides": 32}, "2026-11-26T12:00:00.000Z")


async def test_a_line_is_canonical_json_that_holds_the_hash_of_the_line_before(objects: ObjectStore) -> None:
    log = AuditLog(objects, clock=Clock())
    await log.record(Action.IMAGE_UPLOAD, "laboratories/nörd/images/x")
    await log.record(Action.IMAGE_UPLOAD, 'a "quoted"\nname')
    first, second = [record.line() async for record in read_audit(objects)]
    assert json.loads(second)["previous"] == line_hash(first)
    assert json.loads(first)["previous"] == "0" * 64
    # RFC 8785: sorted keys, no blanks, UTF-8 and not \\u escapes, but for control characters.
    assert list(json.loads(first)) == sorted(json.loads(first))
    assert "nörd".encode() in first
    assert second.count(b"\n") == 1
    assert b'\\"quoted\\"\\nname' in second


async def test_writers_that_append_at_once_make_one_record_without_a_loss(objects: ObjectStore) -> None:
    logs = [AuditLog(objects, clock=Clock(), writer=f"gateway-{n}") for n in range(4)]

    async def write(n: int, log: AuditLog) -> None:
        for k in range(25):
            await asyncio.gather(*(log.record(Action.RESULTS_READ, f"{n}/{k}/{i}") for i in range(3)))

    await asyncio.gather(*(write(n, log) for n, log in enumerate(logs)))
    records = [record async for record in read_audit(objects)]
    assert [record.number for record in records] == list(range(1, 301))
    assert {record.object for record in records} == {
        f"{n}/{k}/{i}" for n in range(4) for k in range(25) for i in range(3)
    }
    for n in range(4):  # of one writer, what was recorded first stands first
        own = [record.object.split("/")[1] for record in records if record.object.startswith(f"{n}/")]
        assert own == sorted(own, key=int)


async def test_what_comes_while_a_commit_is_under_way_shares_the_next_one(tmp_path: Path) -> None:
    objects = Counting(tmp_path / "store")
    log = AuditLog(objects, clock=Clock())
    await asyncio.gather(*(log.record(Action.RESULTS_READ, str(n)) for n in range(500)))
    groups = [path for path in objects.created if path.startswith("audit/open/")]
    assert len(groups) <= 2
    assert (await verify(objects)).head.number == 500


async def test_a_day_that_has_ended_becomes_one_file_chained_to_the_day_before(objects: ObjectStore) -> None:
    clock = Clock()
    await fill(objects, clock)
    days = AuditDays(objects)
    assert await days.sealed() == [date(2026, 11, 26), date(2026, 11, 27)]
    first, second = [(await objects.get(f"audit/2026-11-{day}.jsonl")).splitlines(keepends=True) for day in (26, 27)]
    assert parse_line(second[0]).previous == line_hash(first[-1])
    assert parse_line(first[-1]).detail == {"next": "2026-11-27"}
    assert [info.path async for info in objects.list("audit/open/2026-11-26")] == []
    verified = await verify(objects)
    assert (verified.first, verified.head.number, verified.days) == (1, 14, 3)


async def test_another_process_goes_on_where_the_record_ends(objects: ObjectStore) -> None:
    clock = Clock()
    await fill(objects, clock)
    for _ in range(5):
        await AuditLog(objects, clock=clock).record(Action.BATCH_CANCEL, BATCH)
    assert (await verify(objects)).head.number == 19


async def test_a_writer_whose_clock_is_behind_writes_into_the_day_that_is_open(objects: ObjectStore) -> None:
    ahead, behind = Clock(NOON + DAY_S), Clock(NOON)
    first, second = AuditLog(objects, clock=behind), AuditLog(objects, clock=ahead)
    await first.record(Action.BATCH_CREATE, "1")
    await second.record(Action.BATCH_CREATE, "2")
    await first.record(Action.BATCH_CREATE, "3")
    records = [record async for record in read_audit(objects)]
    assert [record.object for record in records] == ["1", "audit", "2", "3"]
    assert [record.day.day for record in records] == [26, 26, 27, 27]
    await second.turn_day()
    assert (await verify(objects)).head.number == 4


async def test_a_writer_that_slept_over_a_sealed_day_adds_nothing_to_it(objects: ObjectStore) -> None:
    clock = Clock()
    sleeper = AuditLog(objects, clock=Clock())
    await sleeper.record(Action.BATCH_CREATE, "before")
    await fill(objects, clock)
    before = await objects.get("audit/2026-11-26.jsonl")
    await sleeper.record(Action.BATCH_CREATE, "after")  # its group of the 26th is free again, and its clock stood still
    assert await objects.get("audit/2026-11-26.jsonl") == before
    assert [info.path async for info in objects.list("audit/open/2026-11-26")] == []
    assert [record.object async for record in read_audit(objects)][-1] == "after"
    await verify(objects)


# What an intruder could do.


def _lines(data: bytes) -> list[bytes]:
    return data.splitlines(keepends=True)


def _edit(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[1].replace(b'"actor":"anyone"', b'"actor":"nobody"'), *lines[2:]]


def _take_out(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *lines[2:]]


def _take_out_and_renumber(lines: list[bytes]) -> list[bytes]:
    return [lines[0], *(line.replace(b'"number":%d' % n, b'"number":%d' % (n - 1)) for n, line in enumerate(lines, 1))][
        :4
    ]


def _swap(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2], lines[1], *lines[3:]]


def _cut(lines: list[bytes]) -> list[bytes]:
    return lines[:-2]


def _repeat(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], lines[1], *lines[2:]]


def _blank(lines: list[bytes]) -> list[bytes]:
    return [lines[0].replace(b":", b": ", 1), *lines[1:]]


ATTACKS: list[Callable[[list[bytes]], list[bytes]]] = [
    _edit,
    _take_out,
    _take_out_and_renumber,
    _swap,
    _cut,
    _repeat,
    _blank,
]


@pytest.mark.parametrize("attack", ATTACKS)
async def test_whatever_is_done_to_a_sealed_day_is_found(objects: ObjectStore, attack: Any) -> None:
    await fill(objects, Clock())
    await verify(objects)
    path = "audit/2026-11-26.jsonl"
    changed = b"".join(attack(_lines(await objects.get(path))))
    assert changed != await objects.get(path)
    await objects.put(path, changed)
    with pytest.raises(AuditBroken) as broken:
        await verify(objects)
    assert broken.value.reason is Reason.AUDIT_BROKEN
    assert "2026-11-2" in broken.value.message


async def test_a_chain_that_skips_a_number_is_found(objects: ObjectStore) -> None:
    await fill(objects, Clock(), days=1, each=2)
    path = "audit/open/2026-11-26/000000002.jsonl"
    second = parse_line(await objects.get(path))
    await objects.put(path, replace(second, number=7).line())
    with pytest.raises(AuditBroken, match="number 7 where 2 belongs"):
        await verify(objects)


@pytest.mark.parametrize("old_new", [(b":", b": "), (b'"artifact":', b'"Artifact":'), (b"\n", b"")])
async def test_a_last_line_that_no_writer_wrote_so_is_found_without_an_anchor(
    objects: ObjectStore, old_new: tuple[bytes, bytes]
) -> None:
    await fill(objects, Clock(), days=1, each=2)
    path = "audit/open/2026-11-26/000000002.jsonl"
    await objects.put(path, (await objects.get(path)).replace(*old_new))
    with pytest.raises(AuditBroken, match="no record"):
        await verify(objects)


async def test_a_day_that_is_missing_is_found(objects: ObjectStore) -> None:
    await fill(objects, Clock())
    await objects.delete("audit/2026-11-27.jsonl")
    with pytest.raises(AuditBroken):
        await verify(objects)


async def test_a_group_that_is_missing_from_the_open_day_is_found(objects: ObjectStore) -> None:
    await fill(objects, Clock(), days=1)
    await objects.delete("audit/open/2026-11-26/000000002.jsonl")
    with pytest.raises(AuditBroken, match="gap"):
        await verify(objects)


@pytest.mark.parametrize("lost", [1, 3])
async def test_an_end_that_was_cut_off_is_found_with_the_anchor_that_an_auditor_keeps(
    objects: ObjectStore, lost: int
) -> None:
    await fill(objects, Clock(), days=1)
    anchor = (await verify(objects)).head
    for group in range(5 - lost, 5):
        await objects.delete(f"audit/open/2026-11-26/{group:09d}.jsonl")
    with pytest.raises(AuditBroken, match="cut off"):
        await verify(objects, anchor)


async def test_a_record_written_anew_from_some_line_on_is_found_with_the_anchor(
    objects: ObjectStore, tmp_path: Path
) -> None:
    await fill(objects, Clock())
    anchor = (await verify(objects)).head
    forged = LocalObjects(tmp_path / "forged")
    log = await fill(forged, Clock())
    await log.record(Action.BATCH_CREATE, "one more")
    await verify(forged)  # whole in itself
    with pytest.raises(AuditBroken, match="verified before"):
        await verify(forged, anchor)


async def test_a_record_that_is_gone_altogether_is_found_with_the_anchor(objects: ObjectStore) -> None:
    assert (await verify(objects)).head.number == 0
    with pytest.raises(AuditBroken, match="gone"):
        await verify(objects, Anchor(7, "a" * 64))


# What must not be done without a record.


class Counting(LocalObjects):
    """A folder that remembers what was created, and fails where it is told."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.created: list[str] = []
        self.lose_answer = False
        self.fail = False

    async def create(self, path: str, data: bytes) -> bool:
        if self.fail:
            raise unavailable()
        self.created.append(path)
        made = await super().create(path, data)
        if self.lose_answer and path.startswith("audit/open/"):
            self.lose_answer = False
            raise unavailable()
        return made


async def test_a_record_that_cannot_be_written_is_UNAVAILABLE_and_the_next_one_is_chained_all_the_same(
    tmp_path: Path,
) -> None:
    objects = Counting(tmp_path / "store")
    log = AuditLog(objects, clock=Clock())
    await log.record(Action.BATCH_CREATE, "1")
    objects.fail = True
    with pytest.raises(Unavailable) as refused:
        await log.record(Action.BATCH_CREATE, "2")
    assert refused.value.retry_after_s
    objects.fail, objects.lose_answer = False, True
    with pytest.raises(Unavailable):  # it is there, but nobody knows
        await log.record(Action.BATCH_CREATE, "3")
    await log.record(Action.BATCH_CREATE, "4")
    assert [record.object async for record in read_audit(objects)] == ["1", "3", "4"]
    await verify(objects)


async def test_a_storage_that_lost_its_answer_and_asked_again_leaves_no_record_twice(tmp_path: Path) -> None:
    class Repeats(LocalObjects):
        async def create(self, path: str, data: bytes) -> bool:
            await super().create(path, data)
            return await super().create(path, data)

    objects = Repeats(tmp_path / "store")
    log = AuditLog(objects, clock=Clock())
    for n in range(3):
        await log.record(Action.BATCH_CREATE, str(n))
    assert [record.object async for record in read_audit(objects)] == ["0", "1", "2"]


async def test_a_caller_that_is_gone_keeps_nobody_else_waiting(objects: ObjectStore) -> None:
    log = AuditLog(objects, clock=Clock())
    tasks = [asyncio.create_task(log.record(Action.RESULTS_READ, str(n))) for n in range(3)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [done[0], done[2]] == [None, None]
    await log.record(Action.RESULTS_READ, "last")
    await verify(objects)


@pytest.mark.parametrize("step", range(12))
async def test_sealing_that_breaks_off_anywhere_is_done_again_and_loses_nothing(tmp_path: Path, step: int) -> None:
    clock = Clock()
    log = AuditLog(LocalObjects(tmp_path / "store"), clock=clock)
    for n in range(5):
        await log.record(Action.BATCH_CREATE, str(n))
    clock.now_s += 2 * DAY_S
    breaking = BreaksOff(tmp_path / "store", step)
    with suppress(GramserveError):
        await AuditLog(breaking, clock=clock).turn_day()
    await verify(LocalObjects(tmp_path / "store"))
    await AuditLog(LocalObjects(tmp_path / "store"), clock=clock).turn_day()
    verified = await verify(LocalObjects(tmp_path / "store"))
    assert verified.head.number == 6
    assert await AuditDays(LocalObjects(tmp_path / "store")).sealed() == [date(2026, 11, 26)]


class BreaksOff(LocalObjects):
    """A folder on which the `step`-th write or delete is the last thing that happens."""

    def __init__(self, root: Path, step: int) -> None:
        super().__init__(root)
        self._left = step

    async def _write(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        if self._left == 0:
            raise unavailable()
        self._left -= 1
        return await super()._write(function, *args, **kwargs)
