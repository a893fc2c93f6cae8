"""CPU of gateway and Redis per slide that is submitted, watched to the end and delivered; a stand-in does the work."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from google.protobuf import json_format

from benchmarks.report import spread
from benchmarks.stack import free_port
from gramserve.client import GramserveClient
from gramserve.queue import EmbeddedRedis, connect
from gramserve.store.manifest import (
    Aggregation,
    ArtifactDraft,
    Calibration,
    EngineSettings,
    Label,
    Preprocessing,
    Source,
)
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource

SLIDES_PER_S = 150.0
CHILDREN = 2
NOT_RUN = ArtifactDraft(
    created=datetime(2026, 1, 1, tzinfo=UTC),
    source=Source(checkpoint_sha256="0" * 64, architecture="none", parameters=1, macs=1),
    labels=(Label(name="GNR", kind="organism", gram="negative"),),
    preprocessing=Preprocessing(input_px=224, tiling="grid", tile_px=224, max_single_px=224, min_px=224),
    calibration=Calibration(temperature=1.0),
    aggregation=Aggregation(tile_probability=0.5, min_tiles=1, top_k=1, review_probability=0.8, max_evidence=1),
    engine=EngineSettings(name="onnxruntime"),
)


class Desk:
    """A gateway, a Redis and a stand-in, each a process of its own."""

    def __init__(self, target: str, redis_url: str, processes: dict[str, psutil.Process]) -> None:
        self.target = target
        self.redis_url = redis_url
        self._processes = processes

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each process so far."""
        times = {role: process.cpu_times() for role, process in self._processes.items()}
        return {role: time.user + time.system for role, time in times.items()}

    def rss_mib(self) -> dict[str, float]:
        """Resident MiB of each process."""
        return {role: process.memory_info().rss / 2**20 for role, process in self._processes.items()}

    async def commands(self) -> dict[str, tuple[int, int]]:
        """Calls and microseconds of each command that Redis has run."""
        async with aclosing(connect(self.redis_url)) as redis:
            found: dict[str, Any] = await redis.info("commandstats")
        return {name.removeprefix("cmdstat_"): (row["calls"], row["usec"]) for name, row in found.items()}


@asynccontextmanager
async def desk(
    folder: Path, *, slides_per_s: float = SLIDES_PER_S, launcher: Sequence[str] = ("-m",)
) -> AsyncIterator[Desk]:
    """Started, with models/bench in production; stopped and gone afterwards."""
    store, port = str(folder / "store"), free_port()
    registry = Registry(open_store(store))
    version, _digest = await registry.publish("bench", {"model.onnx": b"not run here"}, NOT_RUN)
    await registry.promote("bench", version)
    redis = EmbeddedRedis(folder / "redis")
    await redis.start()
    environment = os.environ | {
        "GRAMSERVE_STORE_URL": store,
        "GRAMSERVE_REDIS_URL": redis.url,
        "GRAMSERVE_GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "GRAMSERVE_GATEWAY_METRICS_PORT": "-1",
    }
    gateway = await asyncio.create_subprocess_exec(sys.executable, *launcher, "gateway", env=environment)
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.stand_in", store, redis.url, str(slides_per_s), str(CHILDREN)
    )
    assert redis.pid is not None
    pids = {"gateway": gateway.pid, "redis": redis.pid, "stand-in": worker.pid}
    try:
        yield Desk(f"127.0.0.1:{port}", redis.url, {role: psutil.Process(pid) for role, pid in pids.items()})
    finally:
        for process in (worker, gateway):
            process.terminate()
            await process.wait()
        await redis.stop()


async def run(on: Desk, slides: int) -> dict[str, dict[str, float]]:
    """One batch from the create call to its last event: CPU ms of each process and us inside Redis, per slide."""
    async with GramserveClient(on.target) as client:
        sources = [SlideSource(slide_id=f"G-{i:06d}", images=[Image(sha256=f"{i:064x}")]) for i in range(slides)]
        before, commands = on.cpu_s(), await on.commands()
        batch = await client.create_batch(sources, model="models/bench")
        created = on.cpu_s()
        async with aclosing(client.watch_batch(batch.name)) as events:
            async for _event in events:
                pass
        after, afterwards = on.cpu_s(), await on.commands()
        done = await client.get_batch(batch.name)
    if done.state != SlideBatch.STATE_SUCCEEDED:
        raise RuntimeError(f"the batch ended: {json_format.MessageToJson(done)}")
    return {
        "cpu_ms": {role: 1000 * (after[role] - before[role]) / slides for role in before},
        "create_cpu_ms": {role: 1000 * (created[role] - before[role]) / slides for role in before},
        "redis_us": {
            name: (usec - commands.get(name, (0, 0))[1]) / slides for name, (_calls, usec) in afterwards.items()
        },
        "redis_calls": {
            name: (calls - commands.get(name, (0, 0))[0]) / slides for name, (calls, _usec) in afterwards.items()
        },
    }


def measure(rounds: int = 3, slides: int = 2000, *, launcher: Sequence[str] = ("-m",)) -> dict[str, Any]:
    """`rounds` batches of `slides` slides each; a first small one warms up and is not counted."""

    async def rounds_on_one_desk() -> list[dict[str, dict[str, float]]]:
        with tempfile.TemporaryDirectory() as folder:
            async with desk(Path(folder), launcher=launcher) as on:
                await run(on, 100)
                return [await run(on, slides) for _ in range(rounds)]

    found = asyncio.run(rounds_on_one_desk())
    return {
        "slides": slides,
        "slides_per_s": SLIDES_PER_S,
        **{
            figure: {key: spread([one[figure].get(key, 0.0) for one in found]) for key in sorted(found[-1][figure])}
            for figure in found[0]
        },
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=2))
