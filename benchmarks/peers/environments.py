"""A virtual environment for each peer and for the client, kept outside the project between runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
CLIENT = "client"
# PyTriton's core embeds the system's Python and needs exactly that one.
SYSTEM_PYTHON = "/usr/bin/python3.11"


def cache() -> Path:
    """The folder of all environments; GRAMSERVE_BENCH_CACHE names another one."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("GRAMSERVE_BENCH_CACHE") or Path(base) / "gramserve-peers")


def python(name: str) -> Path:
    """The interpreter of an environment, whether it exists or not."""
    return cache() / name / "bin" / "python"


def is_ready(name: str) -> bool:
    """True when the environment was made for the requirements as they are now."""
    stamp = cache() / name / "requirements.txt"
    return python(name).exists() and stamp.exists() and stamp.read_text() == _requirements(name).read_text()


def make(name: str) -> None:
    """Makes or completes one environment; raises CalledProcessError, what pip said is shown."""
    if not python(name).exists():
        interpreter = SYSTEM_PYTHON if shutil.which(SYSTEM_PYTHON) else sys.executable
        subprocess.run([interpreter, "-m", "venv", "--clear", str(cache() / name)], check=True)
    install = [str(python(name)), "-m", "pip", "install", "--quiet", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--requirement", str(_requirements(name))], check=True)
    shutil.copyfile(_requirements(name), cache() / name / "requirements.txt")


def version(name: str, package: str) -> str:
    """The version of a package in an environment."""
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([str(python(name)), "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def _requirements(name: str) -> Path:
    return HERE / name / "requirements.txt"
