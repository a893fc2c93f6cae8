"""What a child under test does before a slide: what files named after the slide's first image tell it to.

`runs-{sha256}` gets a line each time. If there is `crash-{sha256}`, the child kills itself; `crash-once-...` only
the first time, and `crash-once-part-...` only with a part of a divided slide. If there is a FIFO `hold-{sha256}`, it
reads that to its end, which the test decides; with a part of a divided slide it waits for the test's lock on
`hold-part-{sha256}`. A shadow obeys files whose names begin with `shadow-` instead.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from inference_svc.protocol import RunShadow, RunSlide

FOLDER = "GRAMSERVE_TEST_FOLDER"


def obey(work: RunSlide | RunShadow) -> None:
    folder, sha256 = Path(os.environ[FOLDER]), work.images[0].sha256
    kind = "shadow-" if isinstance(work, RunShadow) else ""
    with (folder / f"{kind}runs-{sha256}").open("a") as runs:
        runs.write(f"{os.getpid()}\n")
    if (once := folder / f"{kind}crash-once-{sha256}").exists():
        once.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(work, RunSlide) and work.shards and (once := folder / f"crash-once-part-{sha256}").exists():
        once.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    if (folder / f"{kind}crash-{sha256}").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    if isinstance(work, RunSlide) and work.shards and (held := folder / f"hold-part-{sha256}").exists():
        with held.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
    if (folder / f"{kind}hold-{sha256}").exists():
        (folder / f"{kind}hold-{sha256}").read_bytes()
