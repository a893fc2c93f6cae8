"""Slides per second from submission to the last result, beside the bare loop on the same cores in the same run."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import spread
from benchmarks.stack import Stack
from gramserve.client import GramserveClient
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource


@dataclass(frozen=True, slots=True)
class Workload:
    """Slides of one field each; every field makes `tiles` tiles."""

    name: str
    fields: Sequence[Path]
    slides: int
    tiles: int


class BareLoops:
    """One bare loop per core, started before and idle between rounds."""

    def __init__(self, version_folder: Path, digest: str, processes: int) -> None:
        command = [sys.executable, "-m", "benchmarks.bare", str(version_folder), digest]
        self._loops = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(processes)
        ]
        for loop in self._loops:
            assert loop.stdout is not None
            loop.stdout.readline()

    def run(self, workload: Workload) -> tuple[float, float]:
        """Slides per second over all loops, and the share of that time spent inside the engine."""
        slides = [[str(workload.fields[i % len(workload.fields)])] for i in range(workload.slides)]
        started = time.perf_counter()
        for number, loop in enumerate(self._loops):
            assert loop.stdin is not None
            loop.stdin.write(json.dumps(slides[number :: len(self._loops)]) + "\n")
            loop.stdin.flush()
        answers: list[dict[str, float]] = []
        for loop in self._loops:
            assert loop.stdout is not None
            answers.append(json.loads(loop.stdout.readline()))
        elapsed_s = time.perf_counter() - started
        assert sum(a["tiles"] for a in answers) == workload.slides * workload.tiles
        inside = sum(a["inference_s"] for a in answers) / sum(a["elapsed_s"] for a in answers)
        return workload.slides / elapsed_s, inside

    def __enter__(self) -> BareLoops:
        return self

    def __exit__(self, *_: object) -> None:
        for loop in self._loops:
            assert loop.stdin is not None
            assert loop.stdout is not None
            loop.stdin.close()
            loop.wait()
            loop.stdout.close()


async def served(stack: Stack, workload: Workload) -> tuple[float, dict[str, float]]:
    """Slides per second from the create call to the terminal event, and CPU milliseconds per slide of each role."""
    async with GramserveClient(stack.target) as client:
        digests = [await client.upload_image(path) for path in workload.fields]
        slides = [
            SlideSource(slide_id=f"B-{i:06d}", images=[Image(sha256=digests[i % len(digests)])])
            for i in range(workload.slides)
        ]
        before, started = stack.usage(), time.perf_counter()
        batch = await client.create_batch(slides, model="models/bench")
        async with aclosing(client.watch_batch(batch.name)) as events:
            async for _event in events:
                pass
        elapsed_s = time.perf_counter() - started
        after = stack.usage()
        done = await client.get_batch(batch.name)
    if done.state != SlideBatch.STATE_SUCCEEDED:
        raise RuntimeError(f"the batch ended {SlideBatch.State.Name(done.state)}: {done.completion_stats}")
    cpu_ms = {role: 1000 * (after[role].cpu_s - before[role].cpu_s) / workload.slides for role in before}
    return workload.slides / elapsed_s, cpu_ms


def measure(stack: Stack, bare: BareLoops, workload: Workload, rounds: int) -> dict[str, Any]:
    """`rounds` rounds, bare loop and stack in turn; a first small one warms both up and is not counted."""
    warm = Workload(workload.name, workload.fields, max(workload.slides // 10, 4), workload.tiles)
    bare.run(warm)
    asyncio.run(served(stack, warm))
    bare_rates, rates, ratios, inside, cpu = [], [], [], [], []
    for _ in range(rounds):
        rate, share = bare.run(workload)
        served_rate, cpu_ms = asyncio.run(served(stack, workload))
        bare_rates.append(rate)
        rates.append(served_rate)
        ratios.append(served_rate / rate)
        inside.append(share)
        cpu.append(cpu_ms)
    return {
        "slides": workload.slides,
        "tiles_per_slide": workload.tiles,
        "slides_per_s": spread(rates),
        "tiles_per_s": spread([rate * workload.tiles for rate in rates]),
        "bare_slides_per_s": spread(bare_rates),
        "ratio_to_bare": spread(ratios),
        "bare_share_inside_engine": spread(inside),
        "cpu_ms_per_slide": {role: spread([c[role] for c in cpu]) for role in cpu[0]},
    }


def bare_loops(stack: Stack, digest: str, processes: int, exits: ExitStack) -> BareLoops:
    """Bare loops on the artifact that the stack serves."""
    return exits.enter_context(BareLoops(stack.store / "models/bench/versions/1", digest, processes))
