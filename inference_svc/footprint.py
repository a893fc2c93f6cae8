"""How much memory this process takes, and giving back what it does not use."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

_STATUS = Path("/proc/self/status")


class ProcessMemory:
    """The anonymous memory of this process: heap, engines' weights and arenas, not libraries mapped from files."""

    def __init__(self) -> None:
        # Only glibc keeps freed memory for itself and has this call; elsewhere there is nothing to give back.
        self._trim = getattr(ctypes.CDLL(None), "malloc_trim", None)

    def used(self) -> int:
        """Bytes of anonymous memory that are resident now (RssAnon); 0 where the system does not say."""
        try:
            status = _STATUS.read_text()
        except OSError:
            return 0
        lines = (line.split() for line in status.splitlines() if line.startswith("RssAnon:"))
        return next((int(words[1]) * 1024 for words in lines), 0)

    def trim(self) -> None:
        """Free what nothing refers to, and give it back to the system."""
        gc.collect()
        if self._trim is not None:
            self._trim(0)
