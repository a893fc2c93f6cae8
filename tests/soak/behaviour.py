"""What the children of a worker do with a slide in a soak: what a file named after its first image says."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

from inference_svc.protocol import RunShadow, RunSlide

FOLDER = "GRAMSERVE_TEST_SOAK_FOLDER"
LINGER_S = 0.02
SLOW_S = 7.0
"""More than two leases of a soak."""


def act(work: RunSlide | RunShadow) -> None:
    """The slide's own behaviour; every other slide takes a moment, so that processes die in the middle of one."""
    file = Path(os.environ[FOLDER]) / work.images[0].sha256
    kind = file.read_text() if work.images[0].sha256 and file.exists() else ""
    match kind:
        case "slow":
            time.sleep(SLOW_S)
        case "hang":
            time.sleep(3600)
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "exit":
            os._exit(0)
        case "greedy":
            hoard = []
            while True:
                hoard.append(bytearray(2**26))
        case _:
            time.sleep(LINGER_S)
