"""What a backup refuses, so that nobody takes for a copy what is none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.errors import Unsafe
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.backup import Backup
from gramserve.store.format import check_format
from gramserve.store.local import LocalObjects


async def test_a_copy_in_which_something_was_recorded_is_not_brought_up_to_date(tmp_path: Path) -> None:
    source, copy = LocalObjects(tmp_path / "store"), LocalObjects(tmp_path / "copy")
    for _ in range(2):
        await AuditLog(source).record(Action.STORE_COPY, "store", actor="night")
        await Backup(source, copy).run()
    await AuditLog(copy).record(Action.RESULTS_READ, "nights/2026-11-25", actor="somebody")
    await AuditLog(source).record(Action.STORE_COPY, "store", actor="night")
    with pytest.raises(Unsafe, match="begin a new copy"):
        await Backup(source, copy).run()


def _is_refused(store: Path) -> None:
    copy = store.parent / "copy"
    for command in (["backup", str(copy)], ["audit", "verify"], ["audit", "show"], ["purge", "--dry-run"]):
        done = CliRunner().invoke(app, [*command, "--store", str(store)])
        assert (done.exit_code, done.stderr.count("\n")) == (2, 1), command
        assert "nothing is stored in" in done.stderr
    assert not copy.exists()


def test_a_store_that_is_not_there_is_neither_copied_nor_verified_nor_purged(tmp_path: Path) -> None:
    _is_refused(tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


async def test_the_data_folder_in_which_the_store_lies_is_not_taken_for_it(tmp_path: Path) -> None:
    await check_format(LocalObjects(tmp_path / "data" / "store"))
    for name in ("logs", "redis", "optimizer", "reports"):
        (tmp_path / "data" / name).mkdir()
    (tmp_path / "data" / "logs" / "gateway.log").write_text("{}")
    await asyncio.to_thread(_is_refused, tmp_path / "data")
    assert not (tmp_path / "data" / "audit").exists()
