"""Bare loops as the benchmark holds them: one process per core, idle between rounds."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import psutil

from benchmarks.artifact import Published
from benchmarks.workload import Workload


class BareLoops:
    """One bare loop per core, for all versions that were published; `module` is run as `benchmarks.bare` is."""

    def __init__(self, published: Published, processes: int, *, module: str = "benchmarks.bare") -> None:
        self._folders = {model: str(folder) for model, folder in published.folders.items()}
        command = [sys.executable, "-m", module, *self._folders.values()]
        self._loops = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        for loop in self._loops:
            assert loop.stdout is not None
            loop.stdout.readline()

    def run(self, workload: Workload, engine: str) -> tuple[float, float]:
        """Slides per second over all loops with the engine of this description, and the share of time inside of it."""
        slides = [[str(path)] for path in workload.paths()]
        started = time.perf_counter()
        for number, loop in enumerate(self._loops):
            assert loop.stdin is not None
            own = slides[number :: len(self._loops)]
            task = {"folder": self._folders[workload.model], "engine": engine, "slides": own}
            loop.stdin.write(json.dumps(task) + "\n")
            loop.stdin.flush()
        answers = [self._answer(loop) for loop in self._loops]
        elapsed_s = time.perf_counter() - started
        if sum(answer["tiles"] for answer in answers) != workload.slides * workload.tiles:
            raise RuntimeError(f"{workload.name}: the bare loop read another number of tiles")
        inside = sum(answer["inference_s"] for answer in answers) / sum(answer["elapsed_s"] for answer in answers)
        return workload.slides / elapsed_s, inside

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all loops so far."""
        times = [psutil.Process(loop.pid).cpu_times() for loop in self._loops]
        return sum(one.user + one.system for one in times)

    @staticmethod
    def _answer(loop: subprocess.Popen[str]) -> dict[str, Any]:
        assert loop.stdout is not None
        answer: dict[str, Any] = json.loads(loop.stdout.readline())
        return answer

    def __enter__(self) -> BareLoops:
        return self

    def __exit__(self, *_: object) -> None:
        for loop in self._loops:
            assert loop.stdin is not None
            assert loop.stdout is not None
            loop.stdin.close()
            loop.wait()
            loop.stdout.close()
