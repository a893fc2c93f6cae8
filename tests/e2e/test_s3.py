"""The whole stack on S3 when the storage itself dies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from gramserve.client import GramserveClient
from gramserve.v1.slide_batch_service_pb2 import WatchSlideBatchResponse
from gramserve.v1.slide_pb2 import Slide
from tests.e2e.running import running
from tests.e2e.test_up import PATIENCE, SLOWLY, every_slide_has_one_result, keep, submit, told_without_gap_or_repeat
from tests.s3 import S3Server, s3_server
from tests.waiting import HANGS_S, until

SLIDES = 30
NOT_USABLE = "the store is not usable; no slides are leased until it is"


@pytest.fixture
def mortal_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of this test alone."""
    with s3_server() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


async def test_I1_I2_a_storage_that_dies_and_comes_back_costs_time_only(tmp_path: Path, mortal_s3: S3Server) -> None:
    async with (
        running(tmp_path / "up", "--workers", "1", store=mortal_s3.url(), environment=SLOWLY) as up,
        GramserveClient(up.address("gateway"), patience=PATIENCE) as client,
    ):
        batch = await submit(client, SLIDES)
        events: list[WatchSlideBatchResponse] = []
        watching = asyncio.create_task(keep(client.watch_batch(batch.name), events))
        await until(lambda: any(event.slide.state == Slide.STATE_SUCCEEDED for event in events))
        mortal_s3.kill()
        await until(lambda: NOT_USABLE in (up.folder / "logs" / "worker-1.log").read_text())
        await mortal_s3.start()
        await asyncio.wait_for(watching, HANGS_S)
        told_without_gap_or_repeat(events, SLIDES)
        await every_slide_has_one_result(client, up, batch, SLIDES)
