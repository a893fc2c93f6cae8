"""The process that opens slides for the report, and has given up all else: `python -m gramserve.night.child`.

Its arguments are its parent, the folder of the store and those that references may lead to. It answers each `Cut`, a
line on standard input, with a line on standard output, the tiles in base64; it ends when its input does, and with its
parent.
"""

from __future__ import annotations

import base64
import importlib
import json
import resource
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from gramserve.images.open import ReferenceOpener
from gramserve.night.wanted import Cut
from gramserve.sandbox import confine, die_with, limit
from gramserve.store.objects import open_store

MAX_BYTES = 256 * 2**20
MAX_SLIDE_BYTES = 16 * 2**30
MEMORY_BYTES = 3 * 2**30
CPU_S = 1800


def main(parent: int, store: str, roots: Sequence[str]) -> int:
    """Answer until there are no more requests."""
    die_with(parent)
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
    limit(resource.RLIMIT_DATA, MEMORY_BYTES)
    limit(resource.RLIMIT_CPU, CPU_S)
    limit(resource.RLIMIT_CORE, 0)  # a core would be full of pixels
    limit(resource.RLIMIT_FSIZE, 2**20)
    confine(writable=[Path(tempfile.gettempdir())])


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2], sys.argv[3:]))
