"""Imported by a service or named as a child's hook, it puts the disk that a test breaks under that process' store."""

from __future__ import annotations

import os
from pathlib import Path

from inference_svc.protocol import RunShadow, RunSlide
from tests.faults import engine
from tests.faults.disks import FOLDER, install

install(Path(os.environ[FOLDER]))


def obey(work: RunSlide | RunShadow) -> None:
    """The hook of a child: its engine obeys slides, as without a disk of its own."""
    engine.obey(work)
