"""Confining this process with all that the kernel offers for it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from gramserve import log
from gramserve.metrics import Metrics
from gramserve.sandbox import landlock, seccomp

PROTECTIONS = ("seccomp", "landlock")


def missing() -> tuple[str, ...]:
    """The PROTECTIONS that this kernel does not offer; it is only asked, nothing changes."""
    offered = {"seccomp": seccomp.available(), "landlock": landlock.available()}
    return tuple(name for name in PROTECTIONS if not offered[name])


def report(metrics: Metrics) -> None:
    """Say once, in the log and as a metric, which protections the children of this service go without."""
    lacking = missing()
    for name in PROTECTIONS:
        metrics.set("sandbox_missing", float(name in lacking), protection=name)
    if lacking:
        log.get().warning("children run without a protection that this kernel lacks", missing=list(lacking))


def confine(*, writable: Sequence[Path], signal_group: bool = False) -> None:
    """From now on this process writes below `writable` only, starts no program, and opens no socket.

    `signal_group`: it may signal its process group and not only itself. For good, and for whatever it loads. Call it
    before there are threads. What the kernel lacks is left out: `missing` tells.
    """
    with contextlib.suppress(OSError):
        landlock.write_only_below(writable)
    with contextlib.suppress(OSError):
        seccomp.filter_calls(signal_group=signal_group)
