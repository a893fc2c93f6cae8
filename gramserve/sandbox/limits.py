"""What a process that opens what others made may use, and that it does not outlive whom it works for."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG = 1


def limit(what: int, most: int) -> None:
    """Bound `what` (resource.RLIMIT_...), for good; never above what this process was given. Raises OSError."""
    hard = resource.getrlimit(what)[1]
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    resource.setrlimit(what, (most, most))


def die_with(parent: int) -> None:
    """Be killed when the process `parent` dies, in the middle of whatever it is: that would be for nobody."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)
