"""Measurements on one core: in a process of their own, bound to one CPU, with one thread for every library."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def run_on_one_core(module: str, task: Mapping[str, Any]) -> dict[str, Any]:
    """What `module`, run with `task` as JSON for its only argument, prints as JSON."""
    environment = os.environ | dict.fromkeys(THREADS, "1")
    command = [sys.executable, "-m", module, json.dumps(dict(task))]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def bound_task() -> dict[str, Any]:
    """Binds this process to one of the CPUs that it may use and returns its task."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    task: dict[str, Any] = json.loads(sys.argv[1])
    return task


def in_turns(ways: Mapping[str, Callable[[], object]], seconds: float, *, least: int = 5) -> dict[str, list[float]]:
    """CPU milliseconds of every run of each way, one after the other in turns for about `seconds`.

    A first turn warms up. On an idle core with one thread CPU time is what a clock shows; what others do on the
    machine meanwhile moves it less.
    """
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(next(iter(taken.values()))) < least:
        for name, way in ways.items():
            began = time.process_time()
            way()
            taken[name].append(1000 * (time.process_time() - began))
    return taken


def median_ratio(slow: list[float], fast: list[float]) -> float:
    """The median over all turns of how many times as long one way took as another in the same turn."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))
