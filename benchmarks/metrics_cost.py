"""What metrics cost: CPU per one-tile slide of a stack that counts and times, over that of one that does not."""

from __future__ import annotations

import asyncio
import os
import statistics
from pathlib import Path
from typing import Any

from benchmarks.end_to_end import Served, served
from benchmarks.report import spread
from benchmarks.stack import Stack
from benchmarks.workload import Workload


def unmeasured() -> dict[str, str]:
    """The environment of a stack without metrics."""
    path = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).with_name("unmeasured")), path)))}


def measure(with_metrics: Stack, without: Stack, workload: Workload, rounds: int) -> dict[str, Any]:
    """`rounds` rounds of both stacks in turns, each turn the other one first; ratios are of one round."""
    stacks = {"with": with_metrics, "without": without}
    for stack in stacks.values():
        asyncio.run(served(stack, workload.of(max(workload.slides // 4, 4))))
    found: dict[str, list[Served]] = {name: [] for name in stacks}
    for turn in range(rounds):
        for name in sorted(stacks, reverse=bool(turn % 2)):
            found[name].append(asyncio.run(served(stacks[name], workload)))
    cpu_ms = {name: [sum(one.cpu_ms.values()) for one in taken] for name, taken in found.items()}
    pairs = [some / none for some, none in zip(cpu_ms["with"], cpu_ms["without"], strict=True)]
    roles = sorted(found["with"][0].cpu_ms)
    return {
        "slides": workload.slides,
        "cpu_ms_per_slide": {name: spread(taken) for name, taken in cpu_ms.items()},
        "cpu_ms_by_role": {
            name: {role: statistics.median(one.cpu_ms.get(role, 0.0) for one in taken) for role in roles}
            for name, taken in found.items()
        },
        "slides_per_s": {name: spread([one.slides_per_s for one in taken]) for name, taken in found.items()},
        "ratio": spread(pairs),
    }
