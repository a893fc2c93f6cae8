"""What an optimizer shows to Prometheus while it runs an optimization and afterwards."""

from __future__ import annotations

from tests.exposition import Exposition, free_port, scrape
from tests.optimizer_service.conftest import Bench
from tests.waiting import until


async def test_a_running_optimization_shows_how_far_it_is_and_an_ended_one_how_it_ended(bench: Bench) -> None:
    port = free_port()
    async with bench.service(metrics_port=port) as caller:
        before = await scrape(port)
        assert before.value("optimizations_running") == 0
        assert before.value("optimization_progress") == 0
        assert before.value("optimizations_finished_total", state="SUCCEEDED") == 0
        created = await caller.create("waits")
        await caller.started(created.name)

        async def under_way() -> Exposition | None:
            shown = await scrape(port)
            return shown if shown.value("optimization_progress") == 0.25 else None

        shown = await until(under_way)
        assert shown is not None
        assert shown.value("optimizations_running") == 1
        await caller.cancel(created.name)
        await caller.ended(created.name)

        async def over() -> bool:
            shown = await scrape(port)
            return shown.value("optimizations_running") == shown.value("optimization_progress") == 0

        await until(over)
        done = await caller.create("finishes")
        await caller.ended(done.name)
        await until(lambda: _ended(port, "SUCCEEDED"))
        shown = await scrape(port)
        assert shown.value("optimizations_finished_total", state="CANCELLED") == 1
        assert shown.value("optimization_stage_seconds_count", stage="BASELINE") == 1


async def _ended(port: int, state: str) -> bool:
    return (await scrape(port)).value("optimizations_finished_total", state=state) == 1
