"""What tests of folders run in a fresh Python, and what they write."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator

from tests.waiting import HANGS_S


def in_python(script: str, *arguments: str) -> str:
    """What a fresh Python prints that runs `script`."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=HANGS_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def one(data: bytes) -> AsyncIterator[bytes]:
    yield data
