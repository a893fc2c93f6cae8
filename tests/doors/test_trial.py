"""What docs/security.md says of a trial with TLS works as it stands there."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
from pathlib import Path

import pytest

from tests.e2e.running import GRAMSERVE, Up

DOCS = Path(__file__).parents[2] / "docs" / "security.md"


def trial() -> list[list[str]]:
    """The commands, as words."""
    found = re.search(r"### A trial\n\n```\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert found
    return [shlex.split(line, comments=True) for line in found[1].replace("\\\n", " ").splitlines()]


async def run(*words: str) -> str:
    """What a command says; it must succeed."""
    process = await asyncio.create_subprocess_exec(
        GRAMSERVE, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_the_trial_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    up, said = None, ""
    try:
        for program, *words in trial():
            if program == "export":
                name, _, value = words[0].partition("=")
                monkeypatch.setitem(os.environ, name, value)
            elif words[0] == "up":
                up = Up(tmp_path / "data", *words[3:], "--no-optimizer", "--children", "1")
                await up.ready()
            else:
                port = up.address("gateway").rpartition(":")[2] if up else ""
                said = await run(*(word.replace("gram.lab.example:50051", f"localhost:{port}") for word in words))
    finally:
        if up is not None:
            await up.stop()
    assert said.startswith("no models yet")
