"""What tests of all parts need, and what must stand before any of them imports torch."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import structlog

from gramserve import log

# Its threads sleep while they wait, since several tests share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture
def configure_log() -> Iterator[Callable[..., None]]:
    """`gramserve.log.configure`, in a process that goes on to other tests: what it changed is as before afterwards."""
    hooks, level = (sys.excepthook, threading.excepthook, sys.unraisablehook), logging.root.level
    yield log.configure
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.captureWarnings(False)
    for handler in logging.root.handlers[:]:  # none was there but those of pytest, which come and go with each phase
        logging.root.removeHandler(handler)
    logging.root.setLevel(level)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
