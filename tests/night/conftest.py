"""A store for nights."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.store.objects import open_store
from tests.night.nights import NightStore


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    return str(tmp_path / "store")


@pytest.fixture
def store(store_url: str) -> NightStore:
    return NightStore(open_store(store_url))
