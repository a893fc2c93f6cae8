"""Which files an optimization may read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from gramserve.errors import GramserveError, InvalidInput, NotFound, Reason
from gramserve.store.objects import LocalObjects
from optimizer_svc.hold import Interrupted
from optimizer_svc.records import FileRecord
from optimizer_svc.sources import Sources


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "data").mkdir(parents=True)
    (folder / "checkpoint").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-of-others").mkdir()
    (tmp_path / "root-of-others" / "x").write_bytes(b"x")
    (folder / "link_out").symlink_to(tmp_path / "secret")
    (folder / "link_in").symlink_to(folder / "checkpoint")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.fixture
def sources(root: Path, tmp_path: Path) -> Sources:
    return Sources(LocalObjects(str(tmp_path / "store")), allowed_roots=[root])


async def _refused(sources: Sources, uri: str, *, folder_allowed: bool = True) -> GramserveError:
    with pytest.raises(GramserveError) as caught:
        await sources.check(FileRecord(uri=uri), folder_allowed=folder_allowed)
    assert "secret" not in caught.value.message
    return caught.value


@pytest.mark.parametrize("name", ["checkpoint", "link_in", "data", ".//checkpoint"])
async def test_what_lies_under_an_allowed_root_is_read(sources: Sources, root: Path, name: str) -> None:
    await sources.check(FileRecord(uri=f"{root}/{name}"), folder_allowed=True)
    await sources.check(FileRecord(uri=f"file://{root}/{name}"), folder_allowed=True)


@pytest.mark.parametrize(
    "uri",
    [
        "{root}/../secret",
        "file://{root}/%2e%2e/secret",
        "{root}/link_out",
        "{root}-of-others/x",
        "{root}/loop",
        "{root}/pipe",
        "file:///etc/passwd",
        "/etc/passwd",
        "/nowhere/at/all",
        "file://elsewhere{root}/checkpoint",
        "file://{root}/checkpoint?x=1",
        "file://[",
        "checkpoint",
        "s3://bucket/checkpoint",
        "http://127.0.0.1/checkpoint",
        "{root}/check\0point",
        "",
    ],
)
async def test_everything_else_is_REFERENCE_DENIED(sources: Sources, root: Path, uri: str) -> None:
    error = await _refused(sources, uri.format(root=root))
    assert isinstance(error, InvalidInput)
    assert error.reason is Reason.REFERENCE_DENIED


async def test_a_folder_is_no_checkpoint(sources: Sources, root: Path) -> None:
    assert (await _refused(sources, f"{root}/data", folder_allowed=False)).reason is Reason.REFERENCE_DENIED


async def test_nothing_under_an_allowed_root_is_REFERENCE_NOT_FOUND(sources: Sources, root: Path) -> None:
    error = await _refused(sources, f"{root}/nothing")
    assert isinstance(error, NotFound)
    assert error.reason is Reason.REFERENCE_NOT_FOUND


async def test_a_root_that_is_a_link_counts_under_both_names(tmp_path: Path, root: Path) -> None:
    (tmp_path / "volume").symlink_to(root)
    sources = Sources(LocalObjects(str(tmp_path / "store")), allowed_roots=[tmp_path / "volume"])
    for name in ("volume", "root"):
        await sources.check(FileRecord(uri=str(tmp_path / name / "checkpoint")), folder_allowed=False)


async def test_an_uploaded_file_is_fetched_once_and_checked(tmp_path: Path) -> None:
    objects = LocalObjects(str(tmp_path / "store"))
    sources, source = Sources(objects), FileRecord(sha256=hashlib.sha256(b"weights").hexdigest())
    await objects.put(f"checkpoints/{source.sha256}", b"weights")
    folder = tmp_path / "inputs"
    path = await sources.bring(source, folder, folder_allowed=False, still_wanted=lambda: None)
    assert path.read_bytes() == b"weights"
    await objects.delete(f"checkpoints/{source.sha256}")
    assert await sources.bring(source, folder, folder_allowed=False, still_wanted=lambda: None) == path


async def test_a_file_that_was_altered_in_the_store_is_not_used(tmp_path: Path) -> None:
    objects = LocalObjects(str(tmp_path / "store"))
    sources, source = Sources(objects), FileRecord(sha256=hashlib.sha256(b"weights").hexdigest())
    await objects.put(f"checkpoints/{source.sha256}", b"something else")
    with pytest.raises(InvalidInput) as caught:
        await sources.bring(source, tmp_path / "inputs", folder_allowed=False, still_wanted=lambda: None)
    assert caught.value.reason is Reason.CHECKSUM_MISMATCH
    assert list((tmp_path / "inputs").iterdir()) == []


async def test_a_fetch_that_nobody_wants_any_more_stops_and_leaves_no_half_file_under_the_name(tmp_path: Path) -> None:
    objects = LocalObjects(str(tmp_path / "store"))
    sources, source = Sources(objects), FileRecord(sha256=hashlib.sha256(b"weights").hexdigest())
    await objects.put(f"checkpoints/{source.sha256}", b"weights")

    def unwanted() -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        await sources.bring(source, tmp_path / "inputs", folder_allowed=False, still_wanted=unwanted)
    assert not (tmp_path / "inputs" / source.sha256).exists()
