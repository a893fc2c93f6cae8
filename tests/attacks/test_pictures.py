"""Hostile images through a real worker: each refused by name, in bounded time and memory, and its neighbours served."""

from __future__ import annotations

import psutil
import pytest

from gramserve.store.records import SlideState
from tests.attacks.pictures import ATTACKS, HARMLESS
from tests.inference.bench import ROOT, Bench
from tests.waiting import until

MOST_BYTES = 700 * 2**20
TYPED = {
    "CORRUPT_IMAGE", "UNSUPPORTED_FORMAT", "UNSUPPORTED_PIXEL_FORMAT", "IMAGE_TOO_LARGE", "IMAGE_TOO_SMALL",
    "NOT_A_SLIDE", "SLIDE_UNREADABLE", "OUT_OF_MEMORY",
}  # fmt: skip


async def test_every_attack_is_refused_by_name_and_every_neighbour_is_served(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    version = await bench.publish()
    names = sorted(ATTACKS)
    slides = []
    for name in names:
        slides += [await bench.image(ATTACKS[name]()), await bench.field()]
    await bench.submit(slides, version)
    peak = 0
    async with bench.worker(children=1, slide_timeout_s=30.0, slide_cpu_s=5.0, max_attempts=1) as worker:

        async def over() -> bool:
            nonlocal peak
            for pid in worker.children.pids:
                peak = max(peak, psutil.Process(pid).memory_info().rss)
            return (await bench.snapshot()).live == 0

        await until(over, what="all slides ended")
        restarts = worker.metrics.registry.get_sample_value("gramserve_child_restarts_total")
    outcomes = await bench.outcomes()
    attacked = {name: outcomes[2 * index] for index, name in enumerate(names)}
    refused = {name: one.error.reason for name, one in attacked.items() if one.error is not None}
    assert set(names) - set(refused) <= HARMLESS
    assert set(refused.values()) <= TYPED, refused
    assert {outcomes[2 * index + 1].state for index in range(len(names))} == {SlideState.SUCCEEDED}
    assert restarts == 0, "no attack ends a child"
    assert peak < MOST_BYTES
