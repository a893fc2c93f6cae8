"""A job process of the optimizer whose search tries to get out: all else is the real one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from gramserve.errors import NotAccepted, Reason
from optimizer_svc import job_process
from optimizer_svc.messages import Message
from optimizer_svc.records import JobRecord
from optimizer_svc.spec import OptimizationResult
from tests.doors import escapes


def run(
    job: JobRecord, workspace: Path, say: Callable[[Message], None], stop: Callable[[], bool]
) -> OptimizationResult:
    escapes.try_all(os.getppid())
    raise NotAccepted(Reason.NOT_ACCEPTED, "it only tried to get out")


if __name__ == "__main__":
    job_process._run = run
    job_process.main(Path(sys.argv[1]))
