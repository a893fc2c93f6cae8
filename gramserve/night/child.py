"""The process that opens slides for the report, and has given up all else: `python -m gramserve.night.child`.

Its arguments are the folder of the store and those that references may lead to. It answers each `Cut`, a line on
standard input, with a line on standard output, the tiles in base64; it ends when its input does, and with its parent.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import json
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gramserve.images.open import ReferenceOpener
from gramserve.night.wanted import Cut
from gramserve.sandbox import confine
from gramserve.store.objects import open_store

MAX_BYTES = 256 * 2**20
MAX_SLIDE_BYTES = 16 * 2**30
MEMORY_BYTES = 3 * 2**30
CPU_S = 1800
_PR_SET_PDEATHSIG = 1


def main(store: str, roots: Sequence[str]) -> int:
    """Answer until there are no more requests."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    _enter()
    opener = ReferenceOpener(
        open_store(store),
        allowed_roots=[Path(root) for root in roots],
        max_bytes=MAX_BYTES,
        max_slide_bytes=MAX_SLIDE_BYTES,
    )
    # Numpy, OpenCV and OpenSlide come in only here, under the limits.
    cutter = importlib.import_module("gramserve.night.cutter").Cutter(opener, MAX_BYTES)
    for line in sys.stdin.buffer:
        tiles = [base64.b64encode(tile).decode() if tile else None for tile in cutter.cut(Cut.from_json(line))]
        sys.stdout.buffer.write(json.dumps(tiles).encode() + b"\n")
        sys.stdout.buffer.flush()
    return 0


def _enter() -> None:
    """Limits; then no network, no program, and no file to write but temporary ones."""
    limits = {
        resource.RLIMIT_DATA: MEMORY_BYTES,
        resource.RLIMIT_CPU: CPU_S,
        resource.RLIMIT_CORE: 0,  # a core would be full of pixels
        resource.RLIMIT_FSIZE: 2**20,
    }
    for what, most in limits.items():
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))
    confine(writable=[Path(tempfile.gettempdir())])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
