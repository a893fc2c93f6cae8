"""What a child may use: memory, CPU time of one piece of work, files; and what it gives up before it reads a slide."""

from __future__ import annotations

import math
import resource
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gramserve.sandbox import confine, limit
from inference_svc.protocol import ChildSettings

MOST_FILES = 512
"""Handles that a child may have open: a DICOM slide can consist of dozens of files."""

MOST_WRITTEN_BYTES = 2**20
"""Largest file that a child may write: it has nothing to write."""


def enter(settings: ChildSettings) -> None:
    """Set the limits, then give up network, programs and the writing of files, for good; raises OSError, ValueError."""
    limit(resource.RLIMIT_DATA, settings.memory_bytes)
    limit(resource.RLIMIT_CORE, 0)  # a core would be full of pixels
    limit(resource.RLIMIT_FSIZE, MOST_WRITTEN_BYTES)
    limit(resource.RLIMIT_NOFILE, MOST_FILES)
    confine(writable=[Path(tempfile.gettempdir())])


class CpuTime:
    """Ends this process with SIGXCPU when one piece of work takes more than `limit_s` of CPU time.

    The kernel counts, also where a library never comes back to Python, and while the worker is stopped.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._due_s = math.inf

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Around one piece of work. Work inside other work has all of its own time, and takes none of the other's."""
        outer_s = self._due_s - time.process_time()
        self._set(self._limit_s)
        try:
            yield
        finally:
            self._set(outer_s)

    def _set(self, left_s: float) -> None:
        self._due_s = time.process_time() + left_s
        # Whole seconds, counted from the start of the process; none begins with less than it was promised.
        most = resource.RLIM_INFINITY if math.isinf(self._due_s) else math.ceil(self._due_s)
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if hard != resource.RLIM_INFINITY:
            most = hard if most == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_CPU, (most, hard))
