"""What only a folder can get wrong: durability, left-overs, several processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gramserve.errors import Unavailable
from gramserve.store.objects import LocalObjects
from tests.store.fresh import in_python, one
from tests.waiting import until


@pytest.mark.parametrize("how", ["put", "create", "put_stream"])
async def test_I1_a_write_is_on_disk_with_its_name_and_its_new_folders_before_it_returns(
    how: str, tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    root = str(tmp_path / "store")
    objects = LocalObjects(root)
    if how == "put_stream":
        await objects.put_stream("a/b/c", one(b"x"))
    else:
        await getattr(objects, how)("a/b/c", b"x")
    above = {("fsync", path) for path in (str(tmp_path), root, f"{root}/a")}
    named = steps.index(("link" if how == "create" else "replace", f"{root}/a/b/c"))
    what, path = steps[named - 1]
    assert what == "fsync"
    assert path.startswith(f"{root}/a/b/.tmp-")
    assert ("fsync", f"{root}/a/b") in steps[named:]
    assert above <= set(steps)
    assert len(steps) == 6


async def test_I1_files_written_together_are_all_on_disk_before_the_first_gets_its_name(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    objects = LocalObjects(tmp_path)
    await objects.create("a/first", b"x")
    steps.clear()
    await objects.create_many([(f"a/{number}", b"x") for number in range(9)])
    whats = [what for what, _ in steps]
    assert whats == ["fsync"] * 9 + ["link"] * 9 + ["fsync"]
    assert len({path for what, path in steps[:9]}) == 9
    assert steps[-1] == ("fsync", f"{tmp_path}/a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(["first", *map(str, range(9))])


async def test_I1_of_files_written_together_none_has_its_name_when_one_cannot_be_made_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects, fsync, calls = LocalObjects(tmp_path), os.fsync, iter(range(100))
    await objects.create("a/first", b"x")

    def breaks(descriptor: int) -> None:
        if next(calls) == 5:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", breaks)
    files = [(f"a/{number}", b"x") for number in range(9)]
    with pytest.raises(Unavailable):
        await objects.create_many(files)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["first"]
    assert all(await objects.create_many(files))


def test_a_uri_is_that_of_pathlib_but_leaves_no_interned_strings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "Bücher & so"
    objects, expected = LocalObjects(root), (root / "a/b+c=d").as_uri()
    interned: list[str] = []
    intern = sys.intern
    with monkeypatch.context() as watching:
        watching.setattr(sys, "intern", lambda text: interned.append(text) or intern(text))
        found = objects.uri("a/b+c=d")
    assert found == expected
    assert interned == []


async def test_I2_losing_a_create_means_that_the_winner_is_on_disk(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    assert await LocalObjects(tmp_path).create("a/b", b"x")
    steps.clear()
    other = LocalObjects(tmp_path)
    assert not await other.create("a/b", b"y")
    # The folders above too: the winner may not have got to these.
    assert {("fsync", str(path)) for path in (tmp_path / "a", tmp_path)} <= set(steps)
    steps.clear()
    assert not await other.create("a/b", b"z")
    assert steps == [("fsync", f"{tmp_path}/a")]


async def test_I2_creators_in_several_processes_have_one_winner(tmp_path: Path) -> None:
    script = """
        import asyncio, sys
        from gramserve.store.objects import LocalObjects
        async def main():
            made = [await LocalObjects(sys.argv[1]).create(f"race/{n}", sys.argv[2].encode()) for n in range(100)]
            print(sum(made))
        asyncio.run(main())
    """
    won = await asyncio.gather(*(asyncio.to_thread(in_python, script, str(tmp_path), str(n)) for n in range(3)))
    assert sum(map(int, won)) == 100


async def test_I1_kill_9_in_the_middle_of_writes_leaves_whole_objects_only(tmp_path: Path) -> None:
    script = """
        import asyncio, sys
        from gramserve.store.objects import LocalObjects
        async def main():
            objects = LocalObjects(sys.argv[1])
            async def write(name):
                for n in range(1_000_000):
                    await objects.put(f"a/{name}", bytes([n % 256]) * 300_000)
                    await objects.create(f"a/{name}-{n}", bytes([n % 256]) * 300_000)
            await asyncio.gather(*(write(name) for name in range(4)))
        asyncio.run(main())
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), str(tmp_path)])
    try:
        await until((tmp_path / "a" / "3-5").exists, what="some writes")
    finally:
        writer.kill()
        writer.wait()
    objects = LocalObjects(tmp_path)
    written = [info async for info in objects.list("a")]
    assert len(written) > 5
    for info in written:
        data = await objects.get(info.path)
        assert len(data) == info.size == 300_000
        assert len(set(data)) == 1


async def test_unfinished_files_of_the_dead_are_invisible_and_harmless(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path, token=iter(f"t{n}" for n in range(1, 9)).__next__)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".tmp-t0").write_bytes(b"half")
    await objects.put("a/b", b"whole")
    assert [info.path async for info in objects.list("")] == ["a/b"]
    assert list(await objects.folders("")) == ["a"]
    assert sorted(entry.name for entry in (tmp_path / "a").iterdir()) == [".tmp-t0", "b"]


async def test_a_write_leaves_no_unfinished_file(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    await asyncio.gather(
        *(objects.create("a/b", b"x") for _ in range(20)), *(objects.put("a/c", b"x") for _ in range(20))
    )
    await objects.put_stream("a/d", one(b"x"))
    assert sorted(entry.name for entry in (tmp_path / "a").iterdir()) == ["b", "c", "d"]


async def test_others_on_the_machine_cannot_read_slides(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "store")
    await objects.put("slides/lab/x", b"x")
    for name in ("store", "store/slides", "store/slides/lab", "store/slides/lab/x"):
        assert (tmp_path / name).stat().st_mode & 0o007 == 0


segment = st.text("ab0-.", min_size=1, max_size=3).filter(lambda text: not text.startswith((".", "-")))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.lists(segment, min_size=1, max_size=3).map("/".join), max_size=12, unique=True),
    after=st.one_of(st.just(""), st.lists(segment, min_size=1, max_size=4).map("/".join)),
)
def test_any_listing_is_what_sorting_all_paths_gives(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], after: str
) -> None:
    # An object cannot have objects below it.
    kept = [name for name in sorted(names) if not any(n.startswith(f"{name}/") for n in names)]
    objects = LocalObjects(tmp_path_factory.mktemp("list"))

    async def listed() -> list[str]:
        for name in kept:
            await objects.put(name, b"")
        return [info.path async for info in objects.list("", after=after)]

    assert asyncio.run(listed()) == [name for name in kept if name > after]
