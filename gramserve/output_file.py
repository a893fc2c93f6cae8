"""Files that people ask for: told before the work where one cannot be written, and never seen half written."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def part_of(path: Path) -> Path:
    """Where `path` is written until it is whole: a hidden file beside it, which then takes its name."""
    return path.with_name(f".{path.name}.part")


def check_place(path: Path) -> None:
    """Raises OSError where `path` could not be written by way of `part_of`."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    part_of(path).touch()
    part_of(path).unlink()
