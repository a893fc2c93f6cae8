"""What tests of all parts need, and what must stand before any of them imports torch."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from gramserve import log
from tests.s3 import WHOLE, S3Server, s3_server

# Its threads sleep while they wait, since several tests share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No example is wrong because the machine was busy.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the tests marked `slow` those on S3 run with `make test-s3` only: on a folder they ran already."""
    left = [item for item in items if not WHOLE and item.get_closest_marker("slow") and "s3" in parameters(item)]
    if left:
        config.hook.pytest_deselected(items=left)
        items[:] = [item for item in items if item not in left]


def parameters(item: pytest.Item) -> Collection[object]:
    """What a test was parametrized with."""
    called = getattr(item, "callspec", None)
    return () if called is None else [value for value in called.params.values() if isinstance(value, str)]


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


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 server for the tests of a session that do not harm it."""
    with s3_server() as server:
        yield server


@pytest.fixture
def s3_url(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty store on S3; this process and those that it starts can reach it."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    return s3.url()
