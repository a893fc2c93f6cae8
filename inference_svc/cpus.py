"""How many CPUs this process may use: its affinity and the quota of its cgroups."""

from __future__ import annotations

import math
import os
from pathlib import Path

from inference_svc.cgroups import MOUNTED, OWN, cgroup_folders


def usable_cpus(cgroups: Path = MOUNTED, own: Path = OWN) -> int:
    """At least 1; a quota of 1.5 CPUs counts as 2, since a child waits for the store some of the time."""
    folders = cgroup_folders("cpu", cgroups, own)
    quotas = [quota for folder in folders for quota in (_quota_v2(folder), _quota_v1(folder)) if quota]
    return max(1, min([len(os.sched_getaffinity(0)), *(math.ceil(quota) for quota in quotas)]))


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
