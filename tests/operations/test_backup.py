"""A copy of a store that is made while the store changes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.errors import Reason, Unavailable, Unsafe
from gramserve.store import layout
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.backup import Backup
from gramserve.store.batches import BatchStore
from gramserve.store.format import check_format
from gramserve.store.local import LocalObjects
from gramserve.store.objects import ObjectInfo, ObjectStore
from gramserve.store.records import RequestRecord, RoundRecord
from gramserve.store.registry import Registry
from tests.operations import copies
from tests.store.artifacts import FILES, draft
from tests.store.test_batches import accept, batch, final, slides, succeeded

DAY_S = 86400.0


class World:
    """A laboratory whose store changes step by step, in the order in which services write."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store
        self.batches = BatchStore(store)
        self.now = 1_800_000_000.0
        self.audit = AuditLog(store, clock=lambda: self.now)

    async def steps(self, nights: int = 2) -> AsyncIterator[None]:
        for night in range(nights):
            version, _ = await Registry(self.store).publish("m", FILES, draft())
            yield
            await Registry(self.store).promote("m", version)
            yield
            for number in range(3):
                async for _ in self._batch(f"b{night}-{number}"):
                    yield
            self.now += DAY_S
            await self.audit.turn_day()
            yield

    async def _batch(self, name: str) -> AsyncIterator[None]:
        for slide in slides(3):
            await self.store.create(layout.slide_path("lab", slide.images[0].sha256), b"pixels")
        yield
        await self.batches.create_request("lab", name, RequestRecord(name, "f"))
        yield
        await self.audit.record(Action.BATCH_CREATE, name)
        await accept(self.batches, batch(name))
        for number in range(2):
            if number:
                yield
                await self.batches.create_round("lab", name, RoundRecord(number, "r", (0, 1, 2), 1.0))
            for index in range(3):
                yield
                await self.batches.record_outcome("lab", name, succeeded(index, number))
            await self.audit.record(Action.BATCH_DELIVER, name)
            yield
            await self.store.put(self.batches.output_path("lab", name, number, "manifest.json"), b"{}")
            yield
            await self.batches.finalize("lab", name, replace(final(number), manifest_digest="d"))


class Moving:
    """The store of a world that goes on, by chance, with everything that is read from it."""

    def __init__(self, store: ObjectStore, steps: AsyncIterator[None], chance: random.Random) -> None:
        self._store: Any = store
        self._steps = steps
        self._chance = chance

    async def _go_on(self) -> None:
        for _ in range(self._chance.choice((0, 0, 1, 2, 5))):
            await anext(self._steps, None)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        await self._go_on()
        async for info in self._store.list(prefix, after=after):
            yield info
            await self._go_on()

    async def folders(self, prefix: str) -> Sequence[str]:
        await self._go_on()
        found: Sequence[str] = await self._store.folders(prefix)
        return found

    async def get_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        await self._go_on()
        found: Sequence[bytes | None] = await self._store.get_many(paths)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("seed", range(12))
async def test_I1_a_copy_made_while_the_store_changes_lacks_nothing_that_it_needs(seed: int, tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    chance = random.Random(seed)
    steps = World(source).steps()
    for _ in range(chance.randrange(60)):
        await anext(steps, None)
    for _ in range(2):  # the second brings the copy up to date
        moving: Any = Moving(source, steps, chance)
        accepted = await source.folders("batches/lab")
        await Backup(moving, copy).run()
        assert await copies.faults(copy) == []
        there = set(await copy.folders("batches/lab"))
        whole = {one for one in accepted if await source.size(layout.batch_path("lab", one)) is not None}
        assert whole <= there | {""}, "a batch that was accepted before is not in the copy"


async def test_a_second_copy_takes_only_what_is_new(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    world = World(source)
    async for _ in world.steps(nights=1):
        pass
    first = await Backup(source, copy).run()
    assert first.kept == 0
    again = await Backup(source, copy).run()
    assert again.kept > 50
    assert again.objects < 5
    await Registry(source).promote("m", 1, alias="other")
    await accept(world.batches, batch("late"))
    later = await Backup(source, copy).run()
    assert again.objects < later.objects < 10
    assert later.open_batches == 1
    assert await Registry(copy).alias("m", "other") is not None


async def test_no_service_starts_on_a_copy_that_was_broken_off(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    async for _ in World(source).steps(nights=1):
        pass

    class Breaking(Moving):
        async def folders(self, prefix: str) -> Sequence[str]:
            if prefix == "slides":
                raise Unavailable(Reason.STORE_UNAVAILABLE, "the store cannot be reached")
            return await super().folders(prefix)

    broken: Any = Breaking(source, World(source).steps(nights=0), random.Random(0))
    with pytest.raises(Unavailable):
        await Backup(broken, copy).run()
    with pytest.raises(Unsafe, match="not finished") as caught:
        await check_format(copy)
    assert caught.value.reason is Reason.UNSAFE_STORE
    with pytest.raises(Unsafe, match="not finished"):
        await Backup(copy, LocalObjects(tmp_path / "other")).run()
    await Backup(source, copy).run()
    await check_format(copy)
    assert await copies.faults(copy) == []


async def test_a_copy_never_goes_into_a_store_that_is_in_use(tmp_path: Path) -> None:
    source, other = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "other")
    await accept(BatchStore(source), batch("b"))
    await accept(BatchStore(other), batch("c"))
    with pytest.raises(Unsafe, match="a place of its own"):
        await Backup(source, other).run()
    copy = LocalObjects(tmp_path / "copy")
    await Backup(source, copy).run()
    await check_format(copy)  # a service starts on it: from now on it is a store
    with pytest.raises(Unsafe, match="a place of its own"):
        await Backup(source, copy).run()


async def test_a_store_of_another_release_is_refused(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path / "store")
    await check_format(store)
    await check_format(store)
    await store.put("format.json", b'{"format":2}')
    with pytest.raises(Unsafe, match="another release") as caught:
        await check_format(store)
    assert caught.value.reason is Reason.UNSAFE_STORE
    assert caught.value.metadata == {"format": "2", "own_format": "1"}
    with pytest.raises(Unsafe, match="another release"):
        await Backup(store, LocalObjects(tmp_path / "copy")).run()


def test_the_command_says_what_it_did_and_the_audit_record_who(tmp_path: Path) -> None:
    store, copy, back = (str(tmp_path / name) for name in ("store", "copy", "back"))
    runner = CliRunner()
    for source, target in ((store, copy), (copy, back), (store, copy)):
        done = runner.invoke(app, ["backup", target, "--store", source])
        assert done.exit_code == 0, done.stderr
        assert "objects of" in done.stdout
    for place, records in ((store, 2), (copy, 2), (back, 2)):
        shown = runner.invoke(app, ["audit", "show", "--store", place])
        assert shown.stdout.count("store.copy") == records, place
        assert runner.invoke(app, ["audit", "verify", "--store", place]).exit_code == 0
