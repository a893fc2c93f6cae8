"""How long a STAT slide takes (ClassifySlide) while thousands of routine slides wait, beside an idle system."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import artifact, fields
from benchmarks.report import spread
from benchmarks.stack import Stack, running
from benchmarks.stat_stages import Call, medians, stages_of
from gramserve.client import GramserveClient
from gramserve.queue import Queue, connect
from gramserve.v1.slide_batch_pb2 import Image, SlideSource
from gramserve.v1.slide_pb2 import Slide

MODEL = "models/bench"


async def calls(client: GramserveClient, images: Iterator[bytes], count: int) -> list[Call]:
    """`count` calls one after the other, each from the bytes of its image to the call of its slide."""
    made = []
    for number in range(count):
        source = SlideSource(slide_id=f"STAT-{number}", images=[Image(content=next(images))])
        asked_s = time.time()
        slide = await client.classify_slide(source, model=MODEL, timeout_s=120.0)
        made.append(Call(asked_s, time.time(), slide))
        if slide.state != Slide.STATE_SUCCEEDED or slide.reused:
            raise RuntimeError(f"the slide ended {Slide.State.Name(slide.state)}, reused: {slide.reused}")
    return made


async def under_backlog(
    client: GramserveClient, images: Iterator[bytes], backlog: Sequence[SlideSource], count: int
) -> list[Call]:
    """`calls` while `backlog` waits in a routine batch, which is cancelled afterwards."""
    batch = await client.create_batch(backlog, model=MODEL)
    async with aclosing(client.watch_batch(batch.name)) as events:
        async for event in events:
            if event.slide.state == Slide.STATE_SUCCEEDED:
                break
    made = await calls(client, images, count)
    left = (await client.get_batch(batch.name)).completion_stats.queued_count
    if not left:
        raise RuntimeError("the backlog was done before the STAT slides: make it larger")
    await client.cancel_batch(batch.name)
    await client.wait_for_batch(batch.name)
    return made


async def _measure(stack: Stack, paths: Sequence[Path], slides: int, count: int, rounds: int) -> dict[str, Any]:
    images = itertools.cycle([path.read_bytes() for path in paths])
    idle: list[list[Call]] = []
    loaded: list[list[Call]] = []
    idle_stages: list[list[float]] = []
    loaded_stages: list[list[float]] = []
    async with GramserveClient(stack.target) as client:
        digests = [await client.upload_image(path) for path in paths]
        backlog = [
            SlideSource(slide_id=f"R-{i:06d}", images=[Image(sha256=digests[i % len(digests)])]) for i in range(slides)
        ]
        await calls(client, images, 5)
        for _ in range(rounds):
            # Redis forgets what has ended after some thousand slides more.
            idle.append(await calls(client, images, count))
            idle_stages += await _stages(stack, client, idle[-1])
            loaded.append(await under_backlog(client, images, backlog, count))
            loaded_stages += await _stages(stack, client, loaded[-1])
    return {
        "backlog_slides": slides,
        "calls_per_round": count,
        "idle_ms": _percentiles(idle),
        "under_backlog_ms": _percentiles(loaded),
        "p95_ratio": spread([_p(95, busy) / _p(95, free) for free, busy in zip(idle, loaded, strict=True)]),
        "p50_ratio": spread([_p(50, busy) / _p(50, free) for free, busy in zip(idle, loaded, strict=True)]),
        "stages_ms": {"idle": medians(idle_stages), "under_backlog": medians(loaded_stages)},
    }


async def _stages(stack: Stack, client: GramserveClient, made: Sequence[Call]) -> list[list[float]]:
    redis = connect(stack.redis_url)
    queue = Queue(redis, "slides")
    found = []
    for call in made:
        batch = await client.get_batch(call.slide.name.partition("/slides/")[0])
        found.append(await stages_of(queue, call, batch.create_time.ToMicroseconds() / 1e6))
    await queue.aclose()
    await redis.aclose()
    return found


def measure(
    stack: Stack, paths: Sequence[Path], *, slides: int = 5000, count: int = 40, rounds: int = 3
) -> dict[str, Any]:
    """`rounds` times `count` calls on the idle stack, then as many under a backlog of `slides` routine slides.

    Slides have one field, taken from `paths` (at most 1 MiB each). Percentiles are over all rounds, the ratio of the
    95th is the median over rounds.
    """
    return asyncio.run(_measure(stack, paths, slides, count, rounds))


def _p(percent: float, made: Sequence[Call]) -> float:
    return float(np.percentile([call.ms for call in made], percent))


def _percentiles(rounds: Sequence[Sequence[Call]]) -> dict[str, float]:
    together = [call for made in rounds for call in made]
    return {f"p{percent}": round(_p(percent, together), 2) for percent in (50, 95, 99)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stat", description=__doc__)
    parser.add_argument("--slides", type=int, default=5000, help="routine slides that wait")
    parser.add_argument("--calls", type=int, default=40, help="STAT calls of a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, idle and loaded in turn")
    parser.add_argument("--tiles", type=int, default=1, choices=(1, 4, 16), help="tiles of a routine slide")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        artifact.publish(folder / "data/store")
        edge = artifact.TILE_PX * round(options.tiles**0.5)
        drawn = fields.draw(folder / "fields", 16, edge)
        with running(folder / "data", variables={"GRAMSERVE_WORKER_REUSE_RESULTS": "false"}) as stack:
            measured = measure(stack, drawn, slides=options.slides, count=options.calls, rounds=options.rounds)
    print(json.dumps(measured, indent=2))
