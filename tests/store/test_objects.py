"""What every ObjectStore does: one suite for the folder and for the S3 code path."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gramserve.errors import InvalidInput, NotFound, Reason
from gramserve.store.objects import LocalObjects, ObjectMissing, ObjectStore, RemoteObjects, open_store
from tests.s3 import BUCKET


async def paths(objects: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    return [info.path async for info in objects.list(prefix, after=after)]


async def stream(*chunks: bytes, fail: Exception | None = None) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
    if fail is not None:
        raise fail


async def test_what_is_put_is_got_and_put_again_replaces_it(objects: ObjectStore) -> None:
    await objects.put("a/b/c.json", b"one")
    assert await objects.get("a/b/c.json") == b"one"
    await objects.put("a/b/c.json", b"two")
    assert await objects.get("a/b/c.json") == objects.get_sync("a/b/c.json") == b"two"
    await objects.put("a/empty", b"")
    assert await objects.get("a/empty") == b""


async def test_an_object_can_be_opened_as_a_file_that_leaves_nothing_behind(objects: ObjectStore) -> None:
    await objects.put("a/b", b"a whole slide")
    handle = objects.open_sync("a/b")
    try:
        assert os.pread(handle, 5, 8) == b"slide"
        assert Path(f"/proc/self/fd/{handle}").read_bytes() == b"a whole slide"  # as libraries open it
    finally:
        os.close(handle)
    assert await paths(objects, "a") == ["a/b"]


@pytest.mark.slow
async def test_I2_of_fifty_concurrent_creators_one_wins_and_its_bytes_stay(objects: ObjectStore) -> None:
    made = await asyncio.gather(*(objects.create("a/b", f"creator {n}".encode()) for n in range(50)))
    assert sum(made) == 1
    assert await objects.get("a/b") == f"creator {made.index(True)}".encode()
    assert not await objects.create("a/b", b"late")


async def test_I2_many_are_created_together_and_each_says_whether_it_was_first(objects: ObjectStore) -> None:
    await objects.create("a/1", b"first")
    await objects.create("b/3", b"first")
    some = [(f"{folder}/{number}", f"{folder}{number}".encode()) for number in range(12) for folder in "ab"]
    created = await objects.create_many(some)
    assert [path for (path, _), is_new in zip(some, created, strict=True) if not is_new] == ["a/1", "b/3"]
    assert await objects.get("a/1") == await objects.get("b/3") == b"first"
    assert await objects.get_many(["a/0", "b/11"]) == [b"a0", b"b11"]
    assert list(await objects.create_many([])) == []


async def test_I2_of_concurrent_groups_of_creators_each_object_has_one_winner(objects: ObjectStore) -> None:
    groups = [[(f"a/{number}", f"group {group}".encode()) for number in range(20)] for group in range(8)]
    created = await asyncio.gather(*(objects.create_many(group) for group in groups))
    for number in range(20):
        winners = [group for group in range(8) if created[group][number]]
        assert len(winners) == 1
        assert await objects.get(f"a/{number}") == f"group {winners[0]}".encode()


async def test_an_object_can_have_a_second_name(objects: ObjectStore) -> None:
    await objects.put("a/1", b"one")
    await objects.name_again([("a/1", "kept/x"), ("a/1", "kept/y")])
    await objects.name_again([("a/1", "kept/x")])
    await objects.delete("a/1")
    assert await objects.get_many(["kept/x", "kept/y"]) == [b"one", b"one"]


async def test_what_is_missing_is_said_with_a_type(objects: ObjectStore) -> None:
    await objects.put("folder/object", b"x")
    for missing in ("nothing", "folder", "folder/object/below", "no/such/folder/object"):
        with pytest.raises(ObjectMissing) as caught:
            await objects.get(missing)
        assert caught.value.reason is Reason.REFERENCE_NOT_FOUND
        assert isinstance(caught.value, NotFound)
        with pytest.raises(ObjectMissing):
            objects.get_sync(missing)
        with pytest.raises(ObjectMissing):
            objects.open_sync(missing)
        with pytest.raises(ObjectMissing):
            await objects.get_range(missing, 0, 1)
        assert await objects.size(missing) is None
        assert await objects.get_tagged(missing) is None
        assert not await objects.replace(missing, b"x", "tag")
        assert await paths(objects, missing if missing != "folder" else "nothing") == []
    assert await objects.folders("nothing") == []


async def test_a_range_ends_with_the_object(objects: ObjectStore) -> None:
    await objects.put("a", b"0123456789")
    assert await objects.get_range("a", 2, 3) == b"234"
    assert await objects.get_range("a", 8, 100) == b"89"
    assert await objects.get_range("a", 10, 5) == b""
    assert await objects.get_range("a", 99, 5) == b""
    assert await objects.get_range("a", 3, 0) == b""


async def test_many_are_got_in_order_with_none_for_the_missing(objects: ObjectStore) -> None:
    for n in range(40):
        await objects.put(f"many/{n}", str(n).encode())
    asked = [f"many/{n}" for n in range(50)]
    assert list(await objects.get_many(asked)) == [str(n).encode() for n in range(40)] + [None] * 10


async def test_a_listing_of_one_folder_is_sorted_and_goes_on_behind_any_name_in_it(objects: ObjectStore) -> None:
    names = [f"a/{name}" for name in ("2", "10", "b-c", "b.d", "b_c", "b0", "Z", "000001.json")]
    for name in [*names, "b/1", "a-b/1"]:
        await objects.put(name, name.encode())
    assert await paths(objects, "a") == await paths(objects, "a/") == sorted(names)
    for after in [*names, "a/0", "a/3", "a/zz"]:
        assert await paths(objects, "a", after=after) == [name for name in sorted(names) if name > after], after
    assert [info.size async for info in objects.list("a")] == [len(name) for name in sorted(names)]


async def test_a_listing_is_sorted_by_path_and_goes_on_behind_any_path(sorting: ObjectStore) -> None:
    objects = sorting
    names = ["a-b/x", "a/2", "a/10", "a/b/c", "a/b-c", "a/b.d", "a0", "b", "a/b/d/e", "a+/y", "Z"]
    for name in names:
        await objects.put(name, name.encode())
    everything = sorted(names)
    assert await paths(objects) == everything
    for after in [*everything, "a", "a/b", "a/b/zz", "zzz", "0", "a/b/c/d", "a/b/c-d"]:
        assert await paths(objects, after=after) == [name for name in everything if name > after], after
    inside = [name for name in everything if name.startswith("a/")]
    assert await paths(objects, "a") == await paths(objects, "a/") == inside
    assert await paths(objects, "a", after="a/b-c") == [name for name in inside if name > "a/b-c"]
    assert [info.size async for info in objects.list("a")] == [len(name) for name in inside]


async def test_a_listing_says_when_an_object_was_written(objects: ObjectStore) -> None:
    await objects.put("a", b"x")
    (info,) = [info async for info in objects.list("")]
    assert info.modified_s > 1_600_000_000


async def test_folders_are_the_names_directly_below(objects: ObjectStore) -> None:
    for name in ("x/b/1", "x/b/2", "x/a/deep/3", "x/a-a/4", "x/object"):
        await objects.put(name, b"")
    assert list(await objects.folders("x")) == ["a", "a-a", "b"]
    assert list(await objects.folders("")) == ["x"]


async def test_files_are_the_names_of_the_objects_directly_below(objects: ObjectStore) -> None:
    for name in ("x/b/1", "x/b-1", "x/a/deep/3", "x/a.json", "object"):
        await objects.put(name, b"")
    assert list(await objects.files("x")) == ["a.json", "b-1"]
    assert list(await objects.files("")) == ["object"]
    assert list(await objects.files("nothing")) == []


async def test_deleting_twice_is_deleting_once(objects: ObjectStore) -> None:
    await objects.put("a/b", b"x")
    await objects.delete("a/b")
    await objects.delete("a/b")
    await objects.delete("never/was")
    assert await objects.size("a/b") is None
    assert await objects.create("a/b", b"again")


async def test_a_stream_becomes_one_object_in_bounded_memory(objects: ObjectStore) -> None:
    chunk = os.urandom(6 * 1024 * 1024)
    await objects.put_stream("big", stream(chunk, b"", chunk, b"end"))
    assert await objects.size("big") == 2 * len(chunk) + 3
    assert await objects.get_range("big", 2 * len(chunk) - 1, 10) == chunk[-1:] + b"end"
    await objects.put_stream("big", stream(b"replaced"))
    await objects.put_stream("small/empty", stream())
    assert await objects.get("big") == b"replaced"
    assert await objects.get("small/empty") == b""


async def test_a_stream_that_fails_leaves_nothing_and_says_why(objects: ObjectStore) -> None:
    with pytest.raises(InvalidInput) as caught:
        await objects.put_stream("a/b", stream(b"x" * 1000, fail=InvalidInput(Reason.CHECKSUM_MISMATCH, "wrong")))
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    assert await paths(objects) == []
    await objects.put("a/b", b"before")
    with pytest.raises(KeyError):
        await objects.put_stream("a/b", stream(b"x" * 1000, fail=KeyError()))
    assert await objects.get("a/b") == b"before"


async def test_replacing_needs_the_tag_of_what_is_there(objects: ObjectStore) -> None:
    await objects.put("a/b", b"one")
    found = await objects.get_tagged("a/b")
    assert found is not None
    data, tag = found
    assert data == b"one"
    assert await objects.replace("a/b", b"two", tag)
    assert not await objects.replace("a/b", b"three", tag)
    assert await objects.get("a/b") == b"two"


async def test_of_concurrent_replacements_of_one_state_one_wins(objects: ObjectStore) -> None:
    await objects.put("a/b", b"before")
    found = await objects.get_tagged("a/b")
    assert found is not None
    done = await asyncio.gather(*(objects.replace("a/b", str(n).encode(), found[1]) for n in range(20)))
    assert sum(done) == 1
    assert await objects.get("a/b") == str(done.index(True)).encode()
    assert await paths(objects) == ["a/b"]


ELSEWHERE = [
    "",
    "/",
    "/etc/passwd",
    "a/../b",
    "../a",
    "..",
    ".",
    "a/./b",
    "a//b",
    "a/",
    "/a",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\n",
]
UNPLAIN = ["a/.hidden", "~", "a%2e%2e/b", "ä", "a b", "x" * 500, "/".join("x" * 20)]


@pytest.mark.parametrize("path", ELSEWHERE + UNPLAIN)
async def test_a_path_that_leads_elsewhere_is_refused_everywhere(objects: ObjectStore, path: str) -> None:
    refused = [
        objects.put(path, b""),
        objects.create(path, b""),
        objects.put_stream(path, stream(b"")),
        objects.get(path),
        objects.get_range(path, 0, 1),
        objects.get_many([path]),
        objects.get_tagged(path),
        objects.replace(path, b"", "tag"),
        objects.size(path),
        objects.delete(path),
    ]
    for call in refused:
        with pytest.raises(InvalidInput):
            await call
    with pytest.raises(InvalidInput):
        objects.get_sync(path)
    with pytest.raises(InvalidInput):
        objects.open_sync(path)
    with pytest.raises(InvalidInput):
        objects.uri(path)
    if path not in {"", "/", "a/"}:
        with pytest.raises(InvalidInput):
            await paths(objects, path)
        with pytest.raises(InvalidInput):
            await objects.folders(path)
    if path:
        with pytest.raises(InvalidInput):
            await paths(objects, after=path)


async def test_I15_a_good_store_passes_its_probe_and_keeps_nothing_of_it(objects: ObjectStore) -> None:
    await objects.probe()
    await objects.probe()
    assert await paths(objects) == []


def test_an_object_has_a_uri_for_other_programs(objects: ObjectStore) -> None:
    uri = objects.uri("batches/lab/b1/output/0")
    assert uri.endswith("/batches/lab/b1/output/0")
    assert uri.startswith(("file:///", "s3://bucket/prefix/", f"s3://{BUCKET}/"))


def test_a_store_is_opened_by_its_url(tmp_path: os.PathLike[str], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = os.fspath(tmp_path)
    for url in (folder, f"file://{folder}", f"file://localhost{folder}"):
        store = open_store(url)
        assert isinstance(store, LocalObjects)
        assert store.uri("x") == f"file://{folder}/x"
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    remote = open_store("s3://bucket/some/prefix/")
    assert isinstance(remote, RemoteObjects)
    assert remote.uri("x") == "s3://bucket/some/prefix/x"
    for url in ("", "http://host/x", "s3:///x", "file://elsewhere/x", "gs://bucket"):
        with pytest.raises(InvalidInput) as caught:
            open_store(url)
        assert caught.value.reason is Reason.INVALID_SETTINGS


async def test_a_folder_is_removed_with_all_that_is_in_it_and_nothing_beside_it(objects: ObjectStore) -> None:
    for path in ("a/b/1", "a/b/c/2", "a/bc/3", "a/4", "b/5"):
        await objects.put(path, b"x")
    await objects.delete_folder("a/b")
    await objects.delete_folder("a/b/")
    await objects.delete_folder("never/there")
    assert sorted([info.path async for info in objects.list("")]) == ["a/4", "a/bc/3", "b/5"]
    assert "bc" in await objects.folders("a")  # a folder that is empty now may still be named
