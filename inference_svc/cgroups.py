"""The cgroups that bind this process."""

from __future__ import annotations

from pathlib import Path

MOUNTED = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def cgroup_folders(controller: str, cgroups: Path = MOUNTED, own: Path = OWN) -> list[Path]:
    """The folders that can limit `controller` ("cpu", "memory"): our own and all above, in version 2 and version 1."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = cgroups / controllers.split(",")[0] if controllers else cgroups
        # Inside a container the path may be that of the host: the root of what is mounted counts in any case.
        inner = root / path.lstrip("/")
        folders += [inner, *(above for above in inner.parents if above.is_relative_to(root))]
    return folders
