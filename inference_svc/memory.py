"""How much memory a child may allocate: what the system and the cgroups leave, shared among the children."""

from __future__ import annotations

from pathlib import Path

from inference_svc.cgroups import MOUNTED, OWN, cgroup_folders

LEAST_BYTES = 512 * 2**20
"""A child with less could not load an ordinary model; where there is less, the system decides who goes."""

PARENT_BYTES = 256 * 2**20
_MEMINFO = Path("/proc/meminfo")


def child_memory(
    most_bytes: int, children: int, *, cgroups: Path = MOUNTED, own: Path = OWN, meminfo: Path = _MEMINFO
) -> int:
    """Bytes for each of `children`: at most `most_bytes`, and not more than its share of what can be had now.

    Running out of memory shall fail one slide inside its child, and not make the kernel kill whole processes.
    """
    found = [_available(meminfo), *(_limit(folder) for folder in cgroup_folders("memory", cgroups, own))]
    limits = [limit for limit in found if limit]
    if not limits:
        return most_bytes
    share = (min(limits) - PARENT_BYTES) // children
    return min(most_bytes, max(share, LEAST_BYTES))


def _limit(folder: Path) -> int | None:
    """memory.max of version 2 or memory.limit_in_bytes of version 1; "max" is no limit, and so is a huge number."""
    for name in ("memory.max", "memory.limit_in_bytes"):
        try:
            return int((folder / name).read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
    return None


def _available(meminfo: Path) -> int | None:
    """MemAvailable, in bytes: free, or held by caches that give way."""
    try:
        lines = meminfo.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
