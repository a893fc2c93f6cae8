"""All kinds of store: every test that takes `objects` runs on a folder, on an obstore backend and on real S3."""

from __future__ import annotations

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
