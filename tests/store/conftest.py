"""Both kinds of store: every test that takes `objects` runs on a folder and on an obstore backend."""

from __future__ import annotations

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from gramserve.store.objects import LocalObjects, ObjectStore, RemoteObjects


@pytest.fixture(params=["folder", "obstore"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return LocalObjects(tmp_path / "store")
    return RemoteObjects(MemoryStore(), "s3://bucket/prefix")
