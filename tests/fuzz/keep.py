"""Takes into the corpus what a run of `make fuzz` has grown: `python -m tests.fuzz.keep FOLDER`."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.fuzz.catalogue import CORPUS, TARGETS

MOST_BYTES = 16_000
"""Of each target in git: the smallest inputs that together reach what all do, as far as they go."""


def keep(name: str, grown: Path) -> int:
    """How many inputs were added to the corpus of a target."""
    kept = CORPUS / name
    kept.mkdir(exist_ok=True)
    known = [path.read_bytes() for path in kept.iterdir()]
    left = MOST_BYTES - sum(map(len, known))
    added = 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as merged:
        words = ["-merge=1", f"-max_len={MOST_BYTES // 8}", merged, str(grown)]
        subprocess.run([sys.executable, "-m", "tests.fuzz.run", name, *words], check=False, capture_output=True)
        for path in sorted(Path(merged).iterdir(), key=lambda path: path.stat().st_size):
            data = path.read_bytes()
            if data in known or len(data) > left:
                continue
            shutil.copyfile(path, kept / hashlib.sha256(data).hexdigest()[:16])
            left, added = left - len(data), added + 1
    return added


if __name__ == "__main__":
    for target in TARGETS:
        folder = Path(sys.argv[1]) / target / "corpus"
        if folder.is_dir():
            print(f"{target}: {keep(target, folder)} inputs more")
