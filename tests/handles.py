"""Which files this process has open, without what other tests, libraries and threads open and close meanwhile."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def open_below(folder: Path) -> list[str]:
    """The files below `folder` that this process has open, once for each handle."""
    found = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed by another thread in between
            found.append(str(handle.readlink()))
    return [name for name in found if Path(name).is_relative_to(folder.resolve())]
