"""Kinds of store for tests that take `objects`: a folder, an obstore backend, real S3; `steps` of durable writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from gramserve.store.objects import LocalObjects, ObjectStore, RemoteObjects, open_store


@pytest.fixture(params=["folder", "obstore", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return opened(request, tmp_path)


@pytest.fixture(params=["folder", "obstore"])
def sorting(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    """Those that sort by path across folders, too, as S3 itself does; not all that are compatible with it do."""
    return opened(request, tmp_path)


def opened(request: pytest.FixtureRequest, folder: Path) -> ObjectStore:
    if request.param == "folder":
        return LocalObjects(folder / "store")
    if request.param == "s3":
        return open_store(request.getfixturevalue("s3_url"))
    return RemoteObjects(MemoryStore(), "s3://bucket/prefix")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The system calls that make a write durable, in order: ("fsync" | "link" | "replace", path)."""
    seen: list[tuple[str, str]] = []
    fsync, link, replace = os.fsync, os.link, os.replace

    def watched_fsync(descriptor: int) -> None:
        seen.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def watched_link(source: str, target: str) -> None:
        seen.append(("link", target))
        link(source, target)

    def watched_replace(source: str, target: str) -> None:
        seen.append(("replace", target))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "link", watched_link)
    monkeypatch.setattr(os, "replace", watched_replace)
    return seen
