"""`gramserve doctor` as an operator runs it: what it finds, by the name of the check."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from typer.testing import CliRunner

from gramserve.cli import app
from tests.sources import ROOT
from tests.waiting import HANGS_S

_RUN = "from gramserve.cli import app; app()"


@dataclass(frozen=True, slots=True)
class Said:
    """The answer of one run: exit code, and (health, found, advice) of each check."""

    code: int
    checks: dict[str, tuple[str, str, str]]

    def health(self, name: str) -> str:
        """ok, warning or failed."""
        return self.checks[name][0]

    def found(self, name: str) -> str:
        """What the check found."""
        return self.checks[name][1]

    def advice(self, name: str) -> str:
        """What it says is to be done."""
        return self.checks[name][2]


async def doctor(
    folder: Path,
    *words: str,
    environment: Mapping[str, str] | None = None,
    before: str = "",
) -> Said:
    """One run on the data folder `folder`, with `before`, Python to run first, in a process of its own."""
    arguments = ["doctor", "--json", "--data-dir", str(folder), *words]
    ours = [name for name in os.environ if name.startswith(("GRAMSERVE_", "AWS_"))]
    if not before:
        variables = {**dict.fromkeys(ours), **(environment or {})}
        result = await asyncio.to_thread(CliRunner().invoke, app, arguments, env=variables)
        return _said(result.exit_code, result.stdout, result.stderr)
    plain = {name: value for name, value in os.environ.items() if name not in ours}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"{before}\n{_RUN}", *arguments),
        cwd=ROOT,
        env={**plain, "PYTHONPATH": str(ROOT), **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    output, errors = await asyncio.wait_for(process.communicate(), HANGS_S)
    assert process.returncode is not None
    return _said(process.returncode, output.decode(), errors.decode())


def _said(code: int, output: str, errors: str) -> Said:
    assert code in {0, 1}, errors
    assert not errors
    found = json.loads(output)
    return Said(code, {one["name"]: (one["health"], one["found"], one["advice"]) for one in found})
