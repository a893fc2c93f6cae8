"""A copy of a store that is made while the store changes."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.errors import Reason, Unsafe
from gramserve.store import layout
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.backup import Backup
from gramserve.store.batches import BatchStore
from gramserve.store.format import check_format
from gramserve.store.local import LocalObjects
from gramserve.store.manifest import ArtifactFile, ArtifactManifest
from gramserve.store.objects import ObjectInfo, ObjectStore, open_store
from gramserve.store.records import ImageRecord, RequestRecord, RoundRecord, SlideRecord
from gramserve.store.registry import Registry
from gramserve.store.remote import RemoteObjects
from tests.operations import copies
from tests.store.artifacts import FILES, draft
from tests.store.test_batches import accept, batch, final, succeeded

DAY_S = 86400.0


def manifest_of(model: str, version: int) -> ArtifactManifest:
    files = {
        name: ArtifactFile(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in FILES.items()
    }
    return ArtifactManifest(**dict(draft()), model=model, version=version, files=files)


class World:
    """A laboratory whose store changes step by step, in the order in which services write; `chance` mixes the lanes."""

    def __init__(self, store: ObjectStore, chance: random.Random | None = None) -> None:
        self.store = store
        self.batches = BatchStore(store)
        self.now = 1_800_000_000.0
        self.audit = AuditLog(store, clock=lambda: self.now)
        self._chance = chance or random.Random(0)

    async def steps(self, nights: int = 1) -> AsyncIterator[None]:
        """Each night batches, one of them per lane, and a version that is published and promoted."""
        for night in range(nights):
            lanes = [self.batch(f"b{night}-{number}") for number in range(4)] + [self.version(night + 1)]
            while lanes:
                lane = self._chance.choice(lanes)
                try:
                    yield await anext(lane)
                except StopAsyncIteration:
                    lanes.remove(lane)
            self.now += DAY_S
            await self.audit.turn_day()
            yield

    async def version(self, number: int) -> AsyncIterator[None]:
        manifest = manifest_of("m", number)
        folder = layout.version_folder("m", number)
        await self.store.create(f"{folder}/reserved", b"")
        for name, data in (*FILES.items(), ("manifest.json", manifest.to_json())):
            yield
            await self.store.put(f"{folder}/{name}", data)
        yield
        await Registry(self.store).promote("m", number)

    async def batch(self, name: str) -> AsyncIterator[None]:
        images = [hashlib.sha256(f"{name}-{number}".encode()).hexdigest() for number in range(3)]
        for image in images:
            await self.store.create(layout.slide_path("lab", image), b"pixels")
        yield
        await self.batches.create_request("lab", name, RequestRecord(name, "f"))
        yield
        await self.audit.record(Action.BATCH_CREATE, name)
        manifest = [SlideRecord(n, f"S-{n}", (ImageRecord(sha256=image),)) for n, image in enumerate(images)]
        await self.batches.write_manifest("lab", name, manifest)
        yield
        await self.batches.create_batch(batch(name))
        for number in range(2):
            yield
            if number:
                await self.batches.create_round("lab", name, RoundRecord(number, "r", (0, 1, 2), 1.0))
            for index in range(3):
                await self.batches.record_outcome("lab", name, succeeded(index, number))
                yield
            await self.store.put(self.batches.output_path("lab", name, number, "manifest.json"), b"{}")
            yield
            await self.audit.record(Action.BATCH_DELIVER, name)
            await self.batches.finalize("lab", name, replace(final(number), manifest_digest="d"))


class Moving:
    """The store of a world that goes on, by chance, with everything that is read from it."""

    def __init__(self, store: ObjectStore, steps: AsyncIterator[None], chance: random.Random) -> None:
        self._store: Any = store
        self._steps = steps
        self._chance = chance

    async def _go_on(self) -> None:
        for _ in range(self._chance.choice((0, 1, 3))):
            await anext(self._steps, None)

    async def list(self, prefix: str, *, after: str = "") -> AsyncIterator[ObjectInfo]:
        await self._go_on()
        async for info in self._store.list(prefix, after=after):
            yield info

    async def folders(self, prefix: str) -> Sequence[str]:
        await self._go_on()
        found: Sequence[str] = await self._store.folders(prefix)
        return found

    async def size(self, path: str) -> int | None:
        await self._go_on()
        found: int | None = await self._store.size(path)
        return found

    async def get_many(self, paths: Sequence[str]) -> Sequence[bytes | None]:
        await self._go_on()
        found: Sequence[bytes | None] = await self._store.get_many(paths)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class Leaping(Moving):
    """The store of a world in which everything happens at the read number `at`."""

    def __init__(self, store: ObjectStore, lanes: Sequence[AsyncIterator[None]], at: int) -> None:
        super().__init__(store, aiter(lanes[0]), random.Random(0))
        self._lanes = lanes
        self._at = at
        self.reads = 0

    async def _go_on(self) -> None:
        if self.reads == self._at:
            for lane in self._lanes:
                async for _ in lane:
                    pass
        self.reads += 1


@pytest.mark.parametrize("seed", range(6))
async def test_I1_a_copy_made_while_the_store_changes_lacks_nothing_that_it_needs(seed: int) -> None:
    source, copy = (RemoteObjects(MemoryStore(), f"memory://{name}") for name in ("store", "copy"))
    chance = random.Random(seed)
    steps = World(source, chance).steps(nights=30)
    for _ in range(chance.randrange(20, 100)):
        await anext(steps)
    for _ in range(2):  # the second brings the copy up to date
        moving: Any = Moving(source, steps, chance)
        accepted = [name async for name in _accepted(source)]
        await Backup(moving, copy).run()
        assert await copies.faults(copy) == []
        there = set(await copy.folders("batches/lab"))
        assert set(accepted) <= there, "a batch that was accepted before is not in the copy"
    await anext(steps)  # it was still going on


async def test_I1_whatever_happens_between_two_looks_at_the_store_the_copy_lacks_nothing() -> None:
    """A night goes from every point to every later one, all of it between one read of the backup and the next."""
    reads = 1
    for begun in (0, 4, 8, 14, 20):
        at = 0
        while at < reads:
            source, copy = (RemoteObjects(MemoryStore(), f"memory://{name}") for name in ("store", "copy"))
            world = World(source)
            lanes = [world.batch("b"), world.version(1)]
            for lane in lanes:
                for _ in range(begun):
                    await anext(lane, None)
            leap = Leaping(source, lanes, at)
            moving: Any = leap
            await Backup(moving, copy).run()
            assert await copies.faults(copy) == [], f"begun at {begun}, at read {at}"
            at, reads = at + 1, max(reads, leap.reads)
    assert reads > 10


async def test_I1_a_batch_in_the_copy_has_the_version_that_was_published_during_the_copy() -> None:
    at, reads = 0, 1
    while at < reads:
        source, copy = (RemoteObjects(MemoryStore(), f"memory://{name}") for name in ("store", "copy"))
        world = World(source)
        await anext(world.version(1))  # there is a model already, and a batch
        await anext(world.batch("a"))
        await source.create(layout.batch_path("lab", "a"), batch("a", 0).to_json())
        leap = Leaping(source, [world.version(3), world.batch("b")], at)  # a batch runs with version 3
        moving: Any = leap
        await Backup(moving, copy).run()
        batches = [name async for name in _accepted(copy)]
        assert "b" not in batches or 3 in await Registry(copy).versions("m"), f"at read {at}"
        at, reads = at + 1, max(reads, leap.reads)
    assert reads > 10


async def test_I1_the_first_image_of_all_may_come_during_the_copy() -> None:
    at, reads = 0, 1
    while at < reads:
        source, copy = (RemoteObjects(MemoryStore(), f"memory://{name}") for name in ("store", "copy"))
        await source.create(layout.batch_path("lab", "a"), batch("a", 0).to_json())  # its slides lie in folders
        leap = Leaping(source, [World(source).batch("b")], at)
        moving: Any = leap
        await Backup(moving, copy).run()
        assert await copies.faults(copy) == [], f"at read {at}"
        at, reads = at + 1, max(reads, leap.reads)
    assert reads > 10


async def test_output_that_was_written_again_before_the_end_is_in_a_later_copy(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    batches = BatchStore(source)
    await accept(batches, batch("b"))
    output = batches.output_path("lab", "b", 0, "manifest.json")
    await source.put(output, b"of a gateway that died before the end")
    await Backup(source, copy).run()
    await source.put(output, b"of the one that wrote down that end ")
    await batches.finalize("lab", "b", replace(final(0), manifest_digest="d"))
    await Backup(source, copy).run()
    assert await copy.get(output) == await source.get(output)


@pytest.mark.parametrize("later", [b"of the second run", b"of the second run, which is longer"])
async def test_a_report_that_was_written_again_is_in_a_later_copy(tmp_path: Path, later: bytes) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    names = [f"optimizations/opt-1/report.{kind}" for kind in ("json", "html")]
    for data in (b"of the first  run", later):
        for name in names:
            await source.put(name, data)
        await Backup(source, copy).run()
    assert [await copy.get(name) for name in names] == [later, later]


async def _accepted(store: ObjectStore) -> AsyncIterator[str]:
    for name in await store.folders("batches/lab"):
        if await store.size(layout.batch_path("lab", name)) is not None:
            yield name


async def test_a_second_copy_takes_only_what_is_new(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    world = World(source)
    async for _ in world.steps():
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


async def test_two_large_folders_are_compared_name_by_name(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    names = [f"slides/{lab}/{number:04d}" for number in range(300) for lab in ("a", "a-b", "b")]
    await source.create_many([(name, name.encode()) for name in names[::2]])
    await Backup(source, copy).run()
    await source.create_many([(name, name.encode()) for name in names])
    copied = await Backup(source, copy).run()
    assert (copied.objects, copied.kept) == (len(names) / 2, len(names) / 2)
    assert [info.path async for info in copy.list("")] == sorted([*names, "format.json"])


async def test_what_another_part_or_release_keeps_in_the_store_is_copied_too_and_anew(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    for night in (b"first", b"other"):
        await source.put("reports/last.html", night)
        await source.put("reports/2026/1.html", night)
        await Backup(source, copy).run()
        assert await copy.get("reports/last.html") == await copy.get("reports/2026/1.html") == night


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


@pytest.mark.parametrize("place", ["store", "store/backup", "."])
async def test_a_copy_never_lies_within_the_store_that_is_copied_or_around_it(tmp_path: Path, place: str) -> None:
    source = LocalObjects(tmp_path / "store")
    await Backup(LocalObjects(tmp_path / "first"), source).run()  # a copy itself, in which no service runs yet
    before = [info.path async for info in source.list("")]
    with pytest.raises(Unsafe, match="within"):
        await Backup(source, LocalObjects(tmp_path / place)).run()
    assert [info.path async for info in source.list("")] == before


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


async def test_the_command_says_what_it_did_and_the_audit_record_who(tmp_path: Path) -> None:
    store, copy, back = (str(tmp_path / name) for name in ("store", "copy", "back"))
    await check_format(LocalObjects(store))
    await asyncio.to_thread(_copy_to_and_fro, store, copy, back)


def _copy_to_and_fro(store: str, copy: str, back: str) -> None:
    runner = CliRunner()
    for source, target in ((store, copy), (copy, back), (store, copy)):
        done = runner.invoke(app, ["backup", target, "--store", source])
        assert done.exit_code == 0, done.stderr
        assert "objects of" in done.stdout
    for place, records in ((store, 2), (copy, 2), (back, 2)):
        shown = runner.invoke(app, ["audit", "show", "--store", place])
        assert shown.stdout.count("store.copy") == records, place
        assert runner.invoke(app, ["audit", "verify", "--store", place]).exit_code == 0


async def test_a_store_that_is_not_mounted_does_not_spoil_its_copy(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    async for _ in World(source).steps(nights=2):
        pass
    await Backup(source, copy).run()
    assert await copies.faults(copy) == []
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    (tmp_path / "store").mkdir()
    arguments = ["backup", str(tmp_path / "copy"), "--store", str(tmp_path / "store")]
    done = await asyncio.to_thread(CliRunner().invoke, app, arguments)
    assert done.exit_code != 0
    assert "mounted" in done.stderr
    assert await copies.faults(copy) == []
    assert list((tmp_path / "store").iterdir()) == []


async def test_a_copy_goes_to_S3_and_back(tmp_path: Path, s3_url: str) -> None:
    source = LocalObjects(tmp_path / "store")
    async for _ in World(source).steps():
        pass
    large = b"pixels" * 400_000  # more than one piece and one part
    await source.put("checkpoints/" + "a" * 64, large)
    copy, back = open_store(s3_url), LocalObjects(tmp_path / "back")
    first = await Backup(source, copy).run()
    assert (await Backup(source, copy).run()).kept >= first.objects - 3
    assert await copies.faults(copy) == []
    await Backup(copy, back).run()
    assert await copies.faults(back) == []
    assert await back.get("checkpoints/" + "a" * 64) == large
    names = {info.path async for info in source.list("")} - {"format.json"}
    assert {info.path async for info in back.list("")} - {"format.json"} == names
