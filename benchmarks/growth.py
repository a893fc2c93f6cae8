"""Memory of every process of the stack after many slides over that after few: nothing may grow with what is done."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from benchmarks.stack import Stack
from gramserve.client import GramserveClient
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource

BATCH_SLIDES = 1_000
FEW, MANY = 1_000, 20_000
SETTLE_S = 10.0
"""Redis forgets batches that have ended a few seconds later."""


async def run_batch(client: GramserveClient, digests: Sequence[str], slides: int) -> None:
    """One batch, watched to its end."""
    sources = [
        SlideSource(slide_id=f"M-{i:06d}", images=[Image(sha256=digests[i % len(digests)])]) for i in range(slides)
    ]
    batch = await client.create_batch(sources, model="models/bench")
    async with aclosing(client.watch_batch(batch.name)) as events:
        async for _event in events:
            pass
    done = await client.get_batch(batch.name)
    if done.state != SlideBatch.STATE_SUCCEEDED:
        raise RuntimeError(f"the batch ended {SlideBatch.State.Name(done.state)}: {done.completion_stats}")


async def _measure(stack: Stack, fields: Sequence[Path], few: int, many: int) -> dict[str, Any]:
    async with GramserveClient(stack.target) as client:
        digests = [await client.upload_image(field) for field in fields]
        for _ in range(few // BATCH_SLIDES):
            await run_batch(client, digests, BATCH_SLIDES)
        await asyncio.sleep(SETTLE_S)
        before = stack.usage()
        for _ in range((many - few) // BATCH_SLIDES):
            await run_batch(client, digests, BATCH_SLIDES)
        await asyncio.sleep(SETTLE_S)
        after = stack.usage()
    return {
        "slides": [few, many],
        "rss_mib": {role: [before[role].rss_mib, after[role].rss_mib] for role in before},
        "ratio": {role: after[role].rss_mib / before[role].rss_mib for role in before},
    }


def measure(stack: Stack, fields: Sequence[Path], few: int = FEW, many: int = MANY) -> dict[str, Any]:
    """Resident MiB of each role after `few` and after `many` slides of one tile (multiples of 1,000), and the ratio.

    The few count from the start of the stack: measure it first, or on a stack of its own.
    """
    return asyncio.run(_measure(stack, fields, few, many))
