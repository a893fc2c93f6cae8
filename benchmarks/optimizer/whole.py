"""A whole optimization in a process of its own, so that its wall time and its peak memory are its own.

Run as `python -m benchmarks.optimizer.whole`; reads one JSON object from standard input and answers with one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optimizer_svc.process import job_environment

COMMAND = (sys.executable, "-m", "benchmarks.optimizer.whole")


@dataclass(frozen=True, slots=True)
class Whole:
    """One optimization to run; `labels` is a labels file."""

    name: str
    checkpoint: Path
    architecture: str
    labels: Path
    data: Path
    budget_minutes: float


def run(whole: Whole, say: Callable[[str], None]) -> dict[str, Any]:
    """Runs it and gives the headline of its report, whether it was accepted, wall time and peak memory."""
    say(f"{whole.name}: {whole.architecture} within {whole.budget_minutes:g} minutes")
    with tempfile.TemporaryDirectory() as folder:
        asked = {
            "checkpoint": str(whole.checkpoint.absolute()),
            "architecture": whole.architecture,
            "labels": str(whole.labels.absolute()),
            "data": str(whole.data.absolute()),
            "budget_minutes": whole.budget_minutes,
            "workspace": folder,
        }
        done = subprocess.run(
            COMMAND,
            input=json.dumps(asked),
            stdout=subprocess.PIPE,
            text=True,
            check=False,
            env=job_environment(os.environ),
        )
        lines = done.stdout.splitlines()
    figures = json.loads(lines[-1]) if lines else {"failure": f"its process ended with {done.returncode}"}
    return {
        "architecture": whole.architecture,
        "budget_minutes": whole.budget_minutes,
        "unproved_allowed": True,  # so few tiles can prove no margin of a point; acceptance is by the counts
        **figures,
    }


def main() -> None:
    """Run the optimization that standard input asks for."""
    from optimizer_svc.environment import peak_memory_bytes  # noqa: PLC0415 - torch, which the caller has no need of
    from optimizer_svc.labels import read_labels  # noqa: PLC0415
    from optimizer_svc.optimize import run_optimization  # noqa: PLC0415
    from optimizer_svc.spec import OptimizationSpec, Progress  # noqa: PLC0415

    asked = json.loads(sys.stdin.read())
    spec = OptimizationSpec(
        checkpoint=Path(asked["checkpoint"]),
        architecture=asked["architecture"],
        labels=read_labels(Path(asked["labels"])),
        data=Path(asked["data"]),
        model="bench",
        budget_minutes=asked["budget_minutes"],
        allow_unproved=True,
    )
    stages: dict[str, float] = {}

    def progress(step: Progress) -> None:
        stages.setdefault(step.stage, round(step.elapsed_s, 1))

    started = time.monotonic()
    figures: dict[str, Any]
    try:
        result = run_optimization(spec, Path(asked["workspace"]), progress)
        figures = {"headline": result.summary, "failure": ""}
    except Exception as error:  # a benchmark that fails says so in its figures
        figures = {"failure": f"{type(error).__name__}: {error}"}
    wall_s = time.monotonic() - started
    figures |= {
        "wall_s": round(wall_s, 1),
        "wall_of_budget": round(wall_s / (60 * asked["budget_minutes"]), 3),
        "stage_began_s": stages,
        "peak_memory_mib": round(peak_memory_bytes() / 2**20),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
