"""The audit of packages in `make check`: fails on a known vulnerability, and says when it could not look."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.sources import ROOT
from tests.waiting import HANGS_S

KNOWN = """echo '{"dependencies": [{"name": "pip", "version": "23.0", "vulns": [{"id": "X"}]}]}'; exit 1"""
UNKNOWN = """echo '{"dependencies": [{"name": "pip", "skip_reason": "not found"}]}'"""


def _audit(tmp_path: Path, asked: str, audited: str) -> subprocess.CompletedProcess[str]:
    """`asked` is what pip-audit does when it is tried out, `audited` what it does with the packages."""
    stand_in = tmp_path / "pip-audit"
    stand_in.write_text(f"#!/bin/bash\nif [[ $* == *--requirement* ]]; then {asked}; else {audited}; fi\n")
    stand_in.chmod(0o755)
    command = [str(ROOT / ".ci" / "audit"), str(stand_in), sys.executable]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=HANGS_S)


@pytest.mark.parametrize("asked", [UNKNOWN, "exit 1", "kill $$"])
def test_without_the_database_it_is_skipped_and_says_so(tmp_path: Path, asked: str) -> None:
    done = _audit(tmp_path, asked, "exit 1")
    assert done.returncode == 0
    assert "skipped" in done.stderr


def test_a_known_vulnerability_fails_the_check(tmp_path: Path) -> None:
    assert _audit(tmp_path, KNOWN, "exit 1").returncode == 1


def test_packages_without_one_pass(tmp_path: Path) -> None:
    done = _audit(tmp_path, KNOWN, 'echo "$@"')
    assert done.returncode == 0
    assert "--path" in done.stdout
    assert "site-packages" in done.stdout
