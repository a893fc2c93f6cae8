"""The report of a night that real workers ran, beside what the gateway says of it."""

from __future__ import annotations

import asyncio
import re
import subprocess
from datetime import UTC, timedelta
from pathlib import Path

import pytest

from gramserve.client import GramserveClient
from gramserve.v1.slide_batch_pb2 import SlideBatch
from tests.artifacts import coloured_file
from tests.e2e.running import GRAMSERVE, running
from tests.waiting import HANGS_S


async def test_the_report_says_of_a_night_what_the_gateway_says(tmp_path: Path) -> None:
    page = tmp_path / "night.html"
    async with running(tmp_path / "up") as up, GramserveClient(up.address("gateway")) as client:
        slides = [
            await client.upload_slide("plain", [coloured_file("GNR", 80, 64)]),
            await client.upload_slide("mixed", [coloured_file("GNR", 81, 64), coloured_file("GPR", 82, 64)]),
            await client.upload_slide("broken", [b"not a picture"]),
        ]
        batch = await client.create_batch(slides, model="models/gram")
        async for _ in client.watch_batch(batch.name):
            pass
        final = await client.get_batch(batch.name)
        assert final.state == SlideBatch.STATE_PARTIALLY_SUCCEEDED
        where = ("--store", str(up.folder / "store"), "--output", str(page))
        command = [GRAMSERVE, "report", "--night", _night_of(final), *where]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=HANGS_S, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "3 accepted = 2 succeeded + 1 failed + 0 expired + 0 cancelled" in done.stdout
        status = await client.system_status()
        stats = status.completion_stats
        assert (stats.total_count, stats.succeeded_count, stats.failed_count, stats.review_count) == (3, 2, 1, 1)
    text = page.read_text()
    assert "Every slide has an end." in text
    assert "UNSUPPORTED_FORMAT" in text
    # What a person must look at, with pictures of both findings as the worker found them.
    assert re.search(r'<div class="id">mixed</div>', text)
    assert text.count('<img src="data:image/jpeg;base64,') >= 2
    assert "no picture" not in text
    assert str(tmp_path) not in text


def _night_of(batch: SlideBatch) -> str:
    """The night that a batch counts for: at noon another one begins."""
    return str((batch.create_time.ToDatetime(UTC).astimezone() - timedelta(hours=12)).date())


async def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    command = [GRAMSERVE, "report", "--store", str(tmp_path / "typo"), "--output", str(tmp_path / "night.html")]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=HANGS_S, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "nothing is stored in" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("report",), ("purge",), ("audit", "verify")], ids=" ".join)
async def test_a_folder_with_a_store_in_it_is_no_store(words: tuple[str, ...], tmp_path: Path) -> None:
    """As the folder of `gramserve up`: it was a night without slides, and got an audit record of its own."""
    for folder in ("store/batches", "redis", "logs"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    command = [GRAMSERVE, *words, "--store", str(tmp_path / "data")]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "nothing is stored in" in done.stderr
    assert sorted(tmp_path.rglob("*")) == before
