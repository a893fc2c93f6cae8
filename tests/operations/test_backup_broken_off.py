"""A backup that was broken off: of an earlier copy, what was in it before can still be restored."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
from obstore.store import MemoryStore

from gramserve.errors import Reason, Unavailable, Unsafe
from gramserve.store.backup import Backup
from gramserve.store.format import check_format
from gramserve.store.objects import ObjectStore
from gramserve.store.remote import RemoteObjects
from tests.operations import copies
from tests.operations.test_backup import World


class Breaking:
    """A store that breaks at the write number `at`, from 1 on; of those written together it has each second.

    That is the first, the third ..., or the others if `odd`.
    """

    def __init__(self, store: ObjectStore, at: int, *, odd: bool = False) -> None:
        self._store: Any = store
        self._left = at
        self._odd = odd

    def _write(self) -> bool:
        """Whether the store breaks now."""
        self._left -= 1
        return self._left <= 0

    async def put(self, path: str, data: bytes) -> None:
        if self._write():
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the store cannot be reached")
        await self._store.put(path, data)

    async def create_many(self, objects: Sequence[tuple[str, bytes]]) -> Sequence[bool]:
        broken = self._write()
        made: Sequence[bool] = await self._store.create_many(objects[self._odd :: 2] if broken else objects)
        if broken:
            raise Unavailable(Reason.STORE_UNAVAILABLE, "the store cannot be reached")
        return made

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def stores(*names: str) -> list[RemoteObjects]:
    return [RemoteObjects(MemoryStore(), f"memory://{name}") for name in names]


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("steps", [5, 11, 19])
async def test_I1_wherever_it_was_broken_off_everything_in_it_has_what_it_needs(steps: int, odd: bool) -> None:
    """Before, a batch and a version had come so far; meanwhile they ended, others came, and the day was over."""
    for at in itertools.count(2):  # the first write says that it is not finished
        source, copy, restored = stores("store", "copy", "restored")
        world = World(source)
        lanes = [world.batch("b"), world.version(1)]
        for _ in range(steps):
            for lane in lanes:
                await anext(lane, None)
        await Backup(source, copy).run()
        before = {info.path async for info in copy.list("batches")}
        for lane in [*lanes, world.batch("c"), world.version(2)]:
            async for _ in lane:
                pass
        world.now += 86400.0
        await world.audit.turn_day()
        breaking: Any = Breaking(copy, at, odd=odd)
        try:
            await Backup(source, breaking).run()
        except Unavailable:
            with pytest.raises(Unsafe, match="restore it by `gramserve backup`") as refused:
                await check_format(copy)
            assert refused.value.reason is Reason.UNSAFE_STORE
            await Backup(copy, restored).run()
            await check_format(restored)
            assert await copies.faults(restored) == [], f"broken off at write {at}"
            assert before <= {info.path async for info in restored.list("batches")}, f"broken off at write {at}"
            await Backup(source, copy).run()
        else:
            break
        assert await copies.faults(copy) == []
        assert await copy.folders("batches/lab") == ["b", "c"]
    assert at > 10


async def test_no_service_starts_on_a_first_copy_that_was_broken_off_and_none_is_made_of_it() -> None:
    source, copy, restored = stores("store", "copy", "restored")
    async for _ in World(source).steps():
        pass
    for at in (2, 4):
        broken: Any = Breaking(copy, at)
        with pytest.raises(Unavailable):
            await Backup(source, broken).run()
        with pytest.raises(Unsafe, match=r"not finished: repeat `gramserve backup`$") as caught:
            await check_format(copy)
        assert caught.value.reason is Reason.UNSAFE_STORE
        with pytest.raises(Unsafe, match="not finished"):
            await Backup(copy, restored).run()
    assert [info async for info in restored.list("")] == []
    await Backup(source, copy).run()
    await check_format(copy)
    assert await copies.faults(copy) == []
