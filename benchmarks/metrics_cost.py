"""What metrics cost: CPU per one-tile slide of a stack that counts and times, over that of one that does not."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.end_to_end import Served as Round
from benchmarks.end_to_end import served
from benchmarks.report import spread
from benchmarks.stack import Stack
from benchmarks.workload import Workload
from gramserve.metrics import Metrics
from gramserve.runtime.tally import tally
from gramserve.store.manifest import Label
from inference_svc.protocol import Finished
from inference_svc.served import Served


def unmeasured() -> dict[str, str]:
    """The environment of a stack without metrics."""
    path = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (str(Path(__file__).with_name("unmeasured")), path)))}


STAGES = ("load", "fetch", "decode", "tile", "infer", "aggregate")
LABELS = ("BACKGROUND", "GNR", "GPC_CLUSTERS", "GPC_PAIRS_CHAINS", "GPR")


def counting_us(repeats: int = 15, slides: int = 2000) -> float:
    """CPU us of all that is counted and timed for one slide of one tile in a worker and its child: the best repeat.

    A busy machine adds to it, and never takes anything away; the ratio of two stacks needs a quiet one.
    """
    metrics = Metrics()
    told = Served(metrics)
    version, labels = "models/gram/versions/1", [Label(name=name, kind="organism") for name in LABELS]
    chance = np.full((1, len(LABELS)), 0.01)
    chance[0, 1] = 0.96
    call = {"outcome": "ORGANISMS_SEEN", "findings": [{"label": "GNR", "probability": 0.96}], "review_reasons": []}
    took_us = []
    for _ in range(repeats):
        began = time.thread_time_ns()
        for _ in range(slides):
            counts = tally(chance, labels)
            told.called(
                version, Finished(1, call, 1, 0.004, {}, "engine", "digest", False, counts.labels, counts.bands)
            )
            metrics.count("tiles")
            for stage in (*STAGES, "run", "store"):
                metrics.observe("slide_stage_seconds", 0.001, stage=stage)
            for name in ("slide_wait_seconds", "slide_seconds"):
                metrics.observe(name, 1.0, priority="ROUTINE")
            metrics.count("slides_finished", state="SUCCEEDED", reason="")
            for leases in (1, 0):
                metrics.set("leases", leases)
        took_us.append((time.thread_time_ns() - began) / slides / 1000)
    return min(took_us)


def measure(with_metrics: Stack, without: Stack, workload: Workload, rounds: int) -> dict[str, Any]:
    """`rounds` rounds of both stacks in turns, each turn the other one first; ratios are of one round."""
    stacks = {"with": with_metrics, "without": without}
    for stack in stacks.values():
        asyncio.run(served(stack, workload.of(max(workload.slides // 4, 4))))
    found: dict[str, list[Round]] = {name: [] for name in stacks}
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
        "counting_us": counting_us(),
    }
