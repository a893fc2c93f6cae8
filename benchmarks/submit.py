"""How long a client waits for "accepted": batches of 1, 100 and 10,000 slides."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from benchmarks.report import spread
from benchmarks.stack import Stack
from gramserve.client import GramserveClient
from gramserve.v1.slide_batch_pb2 import Image, SlideSource


async def measure(stack: Stack, field: Path, manifest_root: Path, repeats: int) -> dict[str, Any]:
    """Milliseconds of CreateSlideBatch; every batch is cancelled afterwards and none is run to its end."""
    figures: dict[str, Any] = {}
    async with GramserveClient(stack.target) as client:
        digest = await client.upload_image(field)
        for count in (1, 100, 10_000):
            slides = [SlideSource(slide_id=f"S-{i:06d}", images=[Image(sha256=digest)]) for i in range(count)]
            manifest = manifest_root / f"slides-{count}.jsonl"
            manifest.write_text("".join(json_format.MessageToJson(s, indent=None) + "\n" for s in slides))
            inline, by_reference = [], []
            for _ in range(repeats if count < 10_000 else max(repeats // 5, 3)):
                for times, content in (
                    (inline, {"slides": slides}),
                    (by_reference, {"manifest_uri": manifest.as_uri()}),
                ):
                    started = time.perf_counter()
                    batch = await client.create_batch(model="models/bench", **content)  # type: ignore[arg-type]
                    times.append(1000 * (time.perf_counter() - started))
                    await client.cancel_batch(batch.name)
                    async for _event in client.watch_batch(batch.name):
                        pass
            figures[str(count)] = {"inline_ms": spread(inline), "manifest_ms": spread(by_reference)}
    return figures
