"""One slide at once, among many routine ones, whatever dies meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from gramserve.client import GramserveClient
from gramserve.v1.slide_pb2 import Slide
from tests.artifacts import coloured_file
from tests.e2e.running import running
from tests.e2e.test_up import PATIENCE, SLOWLY, WOUNDS, every_slide_has_one_result, submit


async def call(client: GramserveClient, number: int) -> Slide:
    source = await client.inline_slide(f"STAT-{number}", [coloured_file("GPR", 70 + number, 64)])
    slide = await client.classify_slide(source, model="models/gram", timeout_s=60.0)
    assert [finding.label for finding in slide.call.findings] == ["GPR"]
    return slide


async def test_stat_slides_are_called_before_the_routine_slides_that_wait(tmp_path: Path, store: str) -> None:
    async with (
        running(tmp_path / "up", "--workers", "1", store=store, environment=SLOWLY) as up,
        GramserveClient(up.address("gateway"), patience=PATIENCE) as client,
    ):
        batch = await submit(client)
        for number in range(3):
            await call(client, number)
        assert (await client.get_batch(batch.name)).completion_stats.queued_count > 0
        await client.wait_for_batch(batch.name)
        await every_slide_has_one_result(client, up, batch)


@pytest.mark.slow
@pytest.mark.parametrize("wound", WOUNDS)
async def test_I1_I2_a_wound_while_a_stat_slide_is_waited_for_costs_time_only(
    wound: str, tmp_path: Path, store: str
) -> None:
    async with (
        running(tmp_path / "up", "--workers", "1", store=store, environment=SLOWLY) as up,
        GramserveClient(up.address("gateway"), patience=PATIENCE) as client,
    ):
        batch = await submit(client)
        assert (await call(client, 0)).attempt_count == 1
        await WOUNDS[wound](up)
        assert (await call(client, 1)).state == Slide.STATE_SUCCEEDED
        await client.wait_for_batch(batch.name)
        await every_slide_has_one_result(client, up, batch)
