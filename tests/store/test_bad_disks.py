"""A disk that is full, read-only or broken: a typed error, nothing half there, and no path is told."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from gramserve.errors import Exhausted, Reason, Unavailable, Unsafe
from gramserve.store.objects import LocalObjects
from tests.store.fresh import in_python, one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("cannot mount a small file system here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


async def test_I10_a_full_disk_is_STORE_FULL_and_what_was_there_stays(small_disk: Path) -> None:
    objects = LocalObjects(small_disk)
    await objects.put("a/kept", b"kept")
    for write in (objects.put("a/kept", b"x" * 100_000), objects.create("a/new", b"x" * 100_000)):
        with pytest.raises(Exhausted) as caught:
            await write
        assert caught.value.reason is Reason.STORE_FULL
        assert caught.value.retry_after_s
    with pytest.raises(Exhausted):
        await objects.put_stream("a/new", one(b"x" * 100_000))
    assert [info.path async for info in objects.list("")] == ["a/kept"]
    assert await objects.get("a/kept") == b"kept"
    assert [entry.name for entry in (small_disk / "a").iterdir()] == ["kept"]
    await objects.put("a/new", b"fits")


def test_I10_a_write_cut_off_by_a_limit_of_the_process_is_STORE_FULL_and_never_half_there(tmp_path: Path) -> None:
    script = """
        import asyncio, os, resource, sys
        from gramserve.errors import Exhausted
        from gramserve.store.objects import LocalObjects
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        async def main():
            try:
                await LocalObjects(sys.argv[1]).create("a/b", b"x" * 2000)
            except Exhausted as error:
                print(error.reason, os.listdir(sys.argv[1] + "/a"))
        asyncio.run(main())
    """
    assert in_python(script, str(tmp_path)) == "STORE_FULL []"


def test_I15_a_read_only_folder_is_UNSAFE_STORE() -> None:
    script = """
        import asyncio, os, sys
        from gramserve.errors import Unavailable, Unsafe
        from gramserve.store.objects import LocalObjects
        if os.geteuid() == 0:
            os.setgid(65534), os.setuid(65534)  # root may write anywhere
        async def main():
            objects = LocalObjects(sys.argv[1])
            assert os.listdir(sys.argv[1]) == []
            try:
                await objects.put("a/b", b"x")
            except Unavailable as error:
                print(error.reason)
            try:
                await objects.probe()
            except Unsafe as error:
                print(error.reason, error.message)
        asyncio.run(main())
    """
    with tempfile.TemporaryDirectory() as parent:
        Path(parent).chmod(0o755)
        folder = Path(parent) / "store"
        folder.mkdir()
        folder.chmod(0o555)
        said = in_python(script, str(folder)).splitlines()
    assert said == ["STORE_UNAVAILABLE", "UNSAFE_STORE The store is not writable: Permission denied."]


async def test_I15_a_store_on_a_file_is_UNSAFE_STORE_and_says_no_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(Unsafe) as caught:
            await LocalObjects(root).probe()
        assert caught.value.reason is Reason.UNSAFE_STORE
        assert str(tmp_path) not in caught.value.message


async def test_I15_a_store_that_forgets_its_first_writer_is_UNSAFE_STORE(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", os.replace)  # what a file system without hard links might do for one
    monkeypatch.setattr(os.path, "exists", lambda _: False)
    with pytest.raises(Unsafe):
        await LocalObjects(tmp_path).probe()


async def test_an_error_of_the_disk_is_STORE_UNAVAILABLE_and_says_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error", str(tmp_path))

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(Unavailable) as caught:
        await LocalObjects(tmp_path).create("a/b", b"x")
    assert caught.value.reason is Reason.STORE_UNAVAILABLE
    assert str(tmp_path) not in caught.value.message
    assert not (tmp_path / "a" / "b").exists()
