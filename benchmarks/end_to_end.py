"""Slides per second from submission to the last result, beside the bare loop on the same cores in the same run."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from benchmarks.loops import BareLoops
from benchmarks.report import spread
from benchmarks.stack import Stack
from benchmarks.workload import Workload
from gramserve.client import GramserveClient
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource

CHILD = "child"


@dataclass(frozen=True, slots=True)
class Served:
    """One batch: slides per second, ms of CPU per slide by role, ms per slide by stage, results by their engine."""

    slides_per_s: float
    cpu_ms: dict[str, float]
    stages_ms: dict[str, float]
    engines: Counter[str]


async def served(stack: Stack, workload: Workload) -> Served:
    """From the create call to the terminal event of the batch; raises RuntimeError when a slide did not succeed."""
    async with GramserveClient(stack.target) as client:
        digests = [await client.upload_image(path) for path in workload.fields]
        slides = [
            SlideSource(slide_id=f"B-{i:06d}", images=[Image(sha256=digests[i % len(digests)])])
            for i in range(workload.slides)
        ]
        before, stages_before, started = stack.usage(), stack.stages(), time.perf_counter()
        batch = await client.create_batch(slides, model=f"models/{workload.model}")
        async with aclosing(client.watch_batch(batch.name)) as events:
            async for _event in events:
                pass
        elapsed_s = time.perf_counter() - started
        after, stages = stack.usage(), stack.stages()
        done = await client.get_batch(batch.name)
        engines = Counter([slide.engine async for slide in client.results(batch.name)])
    if done.state != SlideBatch.STATE_SUCCEEDED:
        raise RuntimeError(f"the batch ended {SlideBatch.State.Name(done.state)}: {done.completion_stats}")
    per_slide = 1000 / workload.slides
    return Served(
        workload.slides / elapsed_s,
        {role: per_slide * (after[role].cpu_s - before[role].cpu_s) for role in before if role in after},
        {stage: per_slide * (total - stages_before.get(stage, 0.0)) for stage, total in stages.items()},
        engines,
    )


def measure(stack: Stack, bare: BareLoops, workload: Workload, rounds: int) -> dict[str, Any]:
    """`rounds` rounds, bare loop and stack in turn; a first small one warms both up and is not counted.

    The bare loop runs the engine that gave most of the stack's results then; `engines` counts the results by engine.
    CPU is that of all processes of a role; `cpu_ms_outside_children` is that of all but the children.
    """
    warm = workload.of(max(workload.slides // 10, 4))
    [(engine, _)] = asyncio.run(served(stack, warm)).engines.most_common(1)
    bare.run(warm, engine)
    bare_rates, inside, rounds_served = [], [], []
    for _ in range(rounds):
        rate, share = bare.run(workload, engine)
        bare_rates.append(rate)
        inside.append(share)
        rounds_served.append(asyncio.run(served(stack, workload)))
    rates = [one.slides_per_s for one in rounds_served]
    outside = [sum(cpu for role, cpu in one.cpu_ms.items() if role != CHILD) for one in rounds_served]
    return {
        "slides": workload.slides,
        "tiles_per_slide": workload.tiles,
        "bare_engine": engine,
        "engines": dict(sum((one.engines for one in rounds_served), Counter())),
        "slides_per_s": spread(rates),
        "tiles_per_s": spread([rate * workload.tiles for rate in rates]),
        "bare_slides_per_s": spread(bare_rates),
        "ratio_to_bare": spread([ours / loop for ours, loop in zip(rates, bare_rates, strict=True)]),
        "bare_share_inside_engine": spread(inside),
        "cpu_ms_per_slide": _by_name([one.cpu_ms for one in rounds_served]),
        "cpu_ms_outside_children": spread(outside),
        "stages_ms_per_slide": _by_name([one.stages_ms for one in rounds_served]),
    }


def _by_name(rounds: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: spread([one.get(name, 0.0) for one in rounds]) for name in rounds[0]}


def scaling(stacks: Mapping[int, Stack], workload: Workload, rounds: int) -> dict[str, Any]:
    """Slides per second of stacks by their number of children, in turns, and each over the one with a single child."""
    rates: dict[int, list[float]] = {children: [] for children in stacks}
    for stack in stacks.values():
        asyncio.run(served(stack, workload.of(max(workload.slides // 10, 4))))
    for _ in range(rounds):
        for children, stack in stacks.items():
            rates[children].append(asyncio.run(served(stack, workload)).slides_per_s)
    return {
        "slides_per_s": {str(children): spread(taken) for children, taken in rates.items()},
        "over_one_child": {
            str(children): spread([many / one for many, one in zip(taken, rates[1], strict=True)])
            for children, taken in rates.items()
            if children > 1
        },
    }
