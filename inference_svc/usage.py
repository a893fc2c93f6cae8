"""What the children of a worker use of the machine, as the kernel says."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat behind the name of the program, which may hold anything: user and system time, in ticks.
_USER, _SYSTEM = 11, 12
_RESIDENT, _SHARED = 1, 2


class Usage:
    """Sums over the children with these `pids`; what they used stays counted when they end."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._most_cpu_s = 0.0

    def memory_bytes(self) -> float:
        """Resident memory of the children that live, without files that they map and would share."""
        return float(sum(_memory(pid) for pid in self._pids()))

    def cpu_s(self) -> float:
        """CPU time of all children so far, seconds; it never falls."""
        ended = os.times()
        spent = ended.children_user + ended.children_system + sum(_cpu_s(pid) for pid in self._pids())
        # One that ended a moment ago is in neither part of the sum.
        self._most_cpu_s = max(self._most_cpu_s, spent)
        return self._most_cpu_s


def _memory(pid: int) -> int:
    pages = _read(pid, "statm").split()
    return (int(pages[_RESIDENT]) - int(pages[_SHARED])) * _PAGE_BYTES if pages else 0


def _cpu_s(pid: int) -> float:
    fields = _read(pid, "stat").rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) / _TICKS if fields else 0.0


def _read(pid: int, what: str) -> str:
    """A file of the process; "" when it is gone."""
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except OSError:
        return ""
