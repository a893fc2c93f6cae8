"""A wall clock that a test sets, for real processes: redis-server, gateways, workers."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("clock.c")


class MovedClock:
    """Processes started with `environment` see the wall clock `move` seconds away from the true one."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("moving the clock of a process takes a C compiler")
        folder.mkdir(exist_ok=True)
        library = folder / "clock.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE)], check=True)
        self._file = folder / "moved_us"
        self.move(0.0)
        self.environment = {"LD_PRELOAD": str(library), "GRAMSERVE_TEST_CLOCK": str(self._file)}

    def move(self, seconds: float) -> None:
        """The clock jumps to so far ahead of the true one, or behind it."""
        # Into the same file: the processes have it mapped.
        with self._file.open("r+b" if self._file.exists() else "w+b") as file:
            file.write(struct.pack("=q", round(seconds * 1e6)))

    @property
    def launcher(self) -> tuple[str, ...]:
        """Words to put before the command of a process."""
        return ("env", *(f"{name}={value}" for name, value in self.environment.items()))
