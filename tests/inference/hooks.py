"""What a child under test does before a slide: what files named after the slide's first image tell it to.

`runs-{sha256}` gets a line each time. If there is `crash-{sha256}`, the child kills itself; `crash-once-...` only
the first time. If there is a FIFO `hold-{sha256}`, it reads that to its end, which the test decides.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

from inference_svc.protocol import RunSlide

FOLDER = "GRAMSERVE_TEST_FOLDER"


def obey(work: RunSlide) -> None:
    folder, sha256 = Path(os.environ[FOLDER]), work.images[0].sha256
    with (folder / f"runs-{sha256}").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    if (once := folder / f"crash-once-{sha256}").exists():
        once.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / f"crash-{sha256}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / f"hold-{sha256}").exists():
        (folder / f"hold-{sha256}").read_bytes()
