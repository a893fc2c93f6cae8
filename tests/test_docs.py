"""The pages of docs/ that are made from the code."""

from __future__ import annotations

import subprocess
import sys

from tests.sources import ROOT
from tests.waiting import HANGS_S


def test_the_tables_of_settings_and_metrics_are_those_of_the_code() -> None:
    command = [sys.executable, "docs/generate.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 0, done.stderr


def test_every_setting_of_every_service_is_in_the_table_with_a_sentence() -> None:
    rows = [line.split(" | ") for line in (ROOT / "docs/settings.md").read_text().splitlines() if "| `GRAM" in line]
    names = [row[0] for row in rows]
    assert len(names) == len(set(names)) > 30
    for row in rows:
        assert row[-1].rstrip(" |").endswith((".", ")")), row
