"""Folders that a write makes: durable when it returns, known afterwards, made again when somebody removes them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gramserve.errors import Unavailable
from gramserve.store import disk
from gramserve.store.objects import LocalObjects


async def test_new_folders_are_made_durable_once_all_files_have_their_names(
    tmp_path: Path, steps: list[tuple[str, str]]
) -> None:
    objects = LocalObjects(tmp_path)
    await objects.create_many([("a/b/1", b"x"), ("a/c/1", b"x")])
    assert [what for what, _ in steps[:4]] == ["fsync", "fsync", "link", "link"]
    assert {path for _, path in steps[4:]} >= {f"{tmp_path}{below}" for below in ("", "/a", "/a/b", "/a/c")}


async def test_I1_a_folder_that_could_not_be_made_durable_is_not_taken_for_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str]]
) -> None:
    objects, fsync = LocalObjects(tmp_path), os.fsync

    def breaks(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink() == tmp_path:
            raise OSError(5, "Input/output error")
        fsync(descriptor)

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", breaks)
        with pytest.raises(Unavailable):
            await objects.create("a/b", b"x")
    steps.clear()
    await objects.create("a/c", b"x")
    assert ("fsync", str(tmp_path)) in steps


async def test_folders_that_are_known_are_not_made_durable_again(tmp_path: Path, steps: list[tuple[str, str]]) -> None:
    objects = LocalObjects(tmp_path)
    await objects.create("a/b/c", b"x")
    steps.clear()
    await objects.create("a/b/d", b"x")
    assert len(steps) == 3


async def test_of_many_folders_those_made_last_are_known(
    tmp_path: Path, steps: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_KNOWN_FOLDERS", 3)
    objects = LocalObjects(tmp_path)
    for number in range(9):
        await objects.create(f"a/{number}/first", b"x")
    steps.clear()
    await objects.create("a/8/second", b"x")
    assert len(steps) == 3
    steps.clear()
    await objects.create("a/0/second", b"x")
    assert ("fsync", f"{tmp_path}/a") in steps


async def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path / "store")
    await objects.put("a/b/c", b"x")
    for folder in ("store/a/b/c", "store/a/b", "store/a"):
        (tmp_path / folder).rmdir() if (tmp_path / folder).is_dir() else (tmp_path / folder).unlink()
    await objects.put("a/b/c", b"y")
    assert await objects.get("a/b/c") == b"y"


async def test_a_folder_that_was_removed_with_the_one_above_it_is_made_again(tmp_path: Path) -> None:
    objects = LocalObjects(tmp_path)
    await objects.put("a/b/c/one", b"1")
    await objects.delete_folder("a/b")
    assert await objects.folders("a") == []
    await objects.put("a/b/d/two", b"2")
    await objects.put("a/b/c/one", b"3")
    assert [info.path async for info in objects.list("a")] == ["a/b/c/one", "a/b/d/two"]
