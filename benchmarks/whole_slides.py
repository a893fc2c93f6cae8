"""Tiles per second of whole slides through the stack, beside a bare OpenSlide loop on the same cores.

Run as `python -m benchmarks.whole_slides FOLDER DIGEST` it is one such loop: the same artifact and engine, one
`read_region` for each tile of a plain grid, and nothing else. It reads one JSON line per round and answers with one.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
from numpy.typing import NDArray

from benchmarks.artifact import TILE_PX, TILES, Published
from benchmarks.bare import serve
from benchmarks.loops import BareLoops
from benchmarks.report import spread
from benchmarks.stack import Stack
from benchmarks.workload import Workload
from gramserve import samples
from gramserve.client import GramserveClient
from gramserve.runtime.artifact import Classifier
from gramserve.samples.pyramid import painter, write_pyramid
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource

EDGE_PX = 6000
_FIELD_PX = 1000


def draw(folder: Path, count: int) -> list[Path]:
    """`count` pyramids of 6000 x 6000 pixels, stained all over: four levels of JPEG tiles, quality 85."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for seed in range(count):
        fields = [
            samples.Sample(samples.LABELS[n % len(samples.LABELS)], 10 * seed + n, _FIELD_PX, _FIELD_PX).render()
            for n in range(EDGE_PX // _FIELD_PX)
        ]
        rows = [np.concatenate(fields[n:] + fields[:n], axis=1) for n in range(len(fields))]
        path = folder / f"{seed:02d}.tif"
        write_pyramid(path, EDGE_PX, EDGE_PX, painter(np.concatenate(rows)))
        paths.append(path)
    return paths


def measure(stack: Stack, published: Published, slides: list[Path], rounds: int) -> dict[str, Any]:
    """`rounds` rounds of bare loops, one for each core, and stack in turn; a first, uncounted one warms both up.

    `slides` are read by reference: the worker must allow their folder. Each child has about the same number of tiles.
    The bare loops run the engine that gave most of the stack's results in the first round.
    """
    processes = _children(stack)
    workload = Workload("whole slides", TILES, slides, len(slides), tiles_of_a_slide())
    names = ("bare", "stack", "ratio", "bare_cpu_ms", "child_cpu_ms", "parent_cpu_ms", "cpu_ratio")
    found: dict[str, list[float]] = {name: [] for name in names}
    with BareLoops(published, processes, module="benchmarks.whole_slides") as loops:
        [(engine, _)] = asyncio.run(served(stack, slides)).engines.most_common(1)
        loops.run(workload, engine)
        for _ in range(rounds):
            cpu_s = loops.cpu_s
            slides_per_s, _inside = loops.run(workload, engine)
            bare_rate = slides_per_s * tiles_of_a_slide()
            bare_cpu_ms = 1000 * (loops.cpu_s - cpu_s) / (len(slides) * tiles_of_a_slide())
            one = asyncio.run(served(stack, slides))
            found["bare"].append(bare_rate)
            found["stack"].append(one.tiles_per_s)
            found["ratio"].append(one.tiles_per_s / bare_rate)
            found["child_cpu_ms"].append(one.cpu_ms["child"])
            found["parent_cpu_ms"].append(one.cpu_ms["worker parent"])
            found["bare_cpu_ms"].append(bare_cpu_ms)
            found["cpu_ratio"].append(bare_cpu_ms / (one.cpu_ms["child"] + one.cpu_ms["worker parent"]))
    return {
        "slides": len(slides),
        "pixels": [EDGE_PX, EDGE_PX],
        "bare_loops": processes,
        "tiles_per_s": spread(found["stack"]),
        "bare_tiles_per_s": spread(found["bare"]),
        "ratio_to_bare": spread(found["ratio"]),
        "cpu_ratio_to_bare": spread(found["cpu_ratio"]),
        "bare_cpu_ms_per_tile": spread(found["bare_cpu_ms"]),
        "child_cpu_ms_per_tile": spread(found["child_cpu_ms"]),
        "parent_cpu_ms_per_tile": spread(found["parent_cpu_ms"]),
    }


def tiles_of_a_slide() -> int:
    """The tiles of a plain grid over one slide."""
    return len(_corners(EDGE_PX, TILE_PX)) ** 2


@dataclass(frozen=True, slots=True)
class Served:
    """One batch: tiles per second, CPU milliseconds per tile by role, results by their engine."""

    tiles_per_s: float
    cpu_ms: dict[str, float]
    engines: Counter[str]


async def served(stack: Stack, slides: list[Path]) -> Served:
    """From the create call to the terminal event of the batch; raises RuntimeError when a slide did not succeed."""
    async with GramserveClient(stack.target) as client:
        sources = [
            SlideSource(slide_id=f"W-{number:04d}", images=[Image(uri=str(path))]) for number, path in enumerate(slides)
        ]
        before, started = stack.usage(), time.perf_counter()
        batch = await client.create_batch(sources, model="models/bench")
        async with aclosing(client.watch_batch(batch.name)) as events:
            async for _event in events:
                pass
        elapsed_s = time.perf_counter() - started
        after = stack.usage()
        done = await client.get_batch(batch.name)
        if done.state != SlideBatch.STATE_SUCCEEDED:
            raise RuntimeError(f"the batch ended {SlideBatch.State.Name(done.state)}: {done.completion_stats}")
        results = [(slide.call.tile_count, slide.engine) async for slide in client.results(batch.name)]
    tiles = sum(count for count, _ in results)
    cpu_ms = {role: 1000 * (after[role].cpu_s - before[role].cpu_s) / tiles for role in before}
    return Served(tiles / elapsed_s, cpu_ms, Counter(engine for _, engine in results))


def _children(stack: Stack) -> int:
    return stack.usage()["child"].processes


def _corners(length: int, edge: int) -> list[int]:
    return [min(start, length - edge) for start in range(0, length, edge)]


def _tiles(path: Path, edge: int) -> Iterator[NDArray[np.uint8]]:
    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
        for y in _corners(height, edge):
            for x in _corners(width, edge):
                region = slide.read_region((x, y), 0, (edge, edge))
                yield np.asarray(region.convert("RGB"))


def fields(slide: list[str], classifier: Classifier) -> Iterator[NDArray[np.uint8]]:
    """The tiles of a slide, which is one file."""
    return _tiles(Path(slide[0]), classifier.contract.preprocessing.tile_px)


if __name__ == "__main__":
    serve(fields)
