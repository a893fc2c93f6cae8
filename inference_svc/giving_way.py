"""How a child gives way: it fills a core, and what others ask of that core in between is short."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import struct

NICE = 5
"""How much nicer than their worker children are."""

SLICE_S = 0.01
"""How long a child may run before the scheduler asks who is next, unless somebody with a shorter slice wakes up.

Since Linux 6.12 a task with a shorter slice (0.7 to 2.8 ms unless it says otherwise) takes the core from one with a
longer slice when it wakes up, and does not wait until that has used up its own. Each of the dozen steps of a STAT slide
through gateway, Redis, worker and the journal of the file system is such a moment.
"""

_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274}
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")  # size, policy, flags, nice, priority, runtime, deadline and period in ns
_NORMAL = 0


def give_way() -> None:
    """From now on this thread, and those that it starts, give way; for good. Older kernels know no slices."""
    os.nice(NICE)
    with contextlib.suppress(OSError):
        _set_slice(SLICE_S)


def _set_slice(seconds: float) -> None:
    number = _SCHED_SETATTR.get(platform.machine())
    if number is None:
        raise OSError("slices are not known for this processor")
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, _NORMAL, 0, nice, 0, round(seconds * 1e9), 0, 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(number, 0, ctypes.create_string_buffer(wanted, len(wanted)), 0):
        raise OSError(ctypes.get_errno(), "the slice of a process")
