"""How many CPUs this process may use: its affinity and the quota of its cgroups."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cpus(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """At least 1; a quota of 1.5 CPUs counts as 2, since a child waits for the store some of the time."""
    quotas = [quota for folder in _folders(cgroups, own) for quota in (_quota_v2(folder), _quota_v1(folder)) if quota]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas)]))


def _folders(cgroups: Path, own: Path) -> list[Path]:
    """The folders of the cgroups that bind this process: its own and all above, in version 2 and version 1."""
    try:
        lines = own.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = cgroups / controllers.split(",")[0] if controllers else cgroups
        # Inside a container the path may be that of the host: the root of what is mounted counts in any case.
        inner = root / path.lstrip("/")
        folders += [inner, *(above for above in inner.parents if above.is_relative_to(root))]
    return folders


def _quota_v2(folder: Path) -> float | None:
    """CPUs that cpu.max allows: "150000 100000" is 1.5, "max 100000" is no limit."""
    try:
        quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(folder: Path) -> float | None:
    """CPUs that cpu.cfs_quota_us allows; -1 and 0 are no limit."""
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text(encoding="ascii"))
        period = int((folder / "cpu.cfs_period_us").read_text(encoding="ascii"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
