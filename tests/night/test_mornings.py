"""A report each morning, written once, caught up on when it was missed, and deleted at the end of its time."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from gramserve.errors import InvalidInput
from gramserve.metrics import Metrics
from gramserve.night.mornings import AGAIN_S, Mornings
from gramserve.night.settings import ReportSettings
from gramserve.night.window import Night
from gramserve.settings import load
from gramserve.store.objects import open_store
from tests.e2e.running import running
from tests.night.nights import EVENING, HOUR, NIGHT, ZONE, NightStore
from tests.waiting import until

SEVEN = NIGHT.begin + 19 * HOUR
DAY = 24 * HOUR


class Wall:
    """A clock on the wall."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "reports"


def mornings(
    store: NightStore,
    store_url: str,
    folder: Path,
    clock: Wall,
    metrics: Metrics | None = None,
    **settings: object,
) -> Mornings:
    told = ReportSettings(store_url=store_url, folder=str(folder), **settings)
    return Mornings(told, metrics or Metrics(), clock, ZONE)


def read(metrics: Metrics, name: str) -> float | None:
    return metrics.registry.get_sample_value(f"gramserve_{name}")


async def a_batch(store: NightStore, name: str = "night-1", *, at: float = EVENING, ended: bool = True) -> None:
    batch = await store.batch(name, 1, at=at)
    if ended:
        await store.succeeded(batch, 0)
        await store.end(batch, "S", at + HOUR)


def pages(folder: Path) -> list[str]:
    return sorted(page.name for page in folder.iterdir()) if folder.is_dir() else []


async def test_the_report_is_written_in_the_morning_and_not_before(
    store: NightStore, store_url: str, folder: Path
) -> None:
    await a_batch(store)
    clock = Wall(EVENING)
    reports = mornings(store, store_url, folder, clock)
    clock.now = SEVEN - 1
    await reports.look()
    assert pages(folder) == []
    clock.now = SEVEN
    await reports.look()
    assert pages(folder) == ["night-2026-11-25.html"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    written = (folder / "night-2026-11-25.html").stat().st_ino
    clock.now = NIGHT.end - 1
    await reports.look()
    assert (folder / "night-2026-11-25.html").stat().st_ino == written  # once
    clock.now = SEVEN + DAY
    await reports.look()
    assert pages(folder) == ["night-2026-11-25.html", "night-2026-11-26.html"]


async def test_what_is_accepted_in_the_morning_is_in_the_report_that_is_made_at_the_end_of_the_night(
    store: NightStore, store_url: str, folder: Path
) -> None:
    await a_batch(store)
    clock = Wall(EVENING)
    reports = mornings(store, store_url, folder, clock)
    clock.now = SEVEN
    await reports.look()
    page = folder / "night-2026-11-25.html"
    assert "The night goes on" in page.read_text()
    await a_batch(store, "morning-1", at=SEVEN + 2 * HOUR)
    clock.now = NIGHT.end - 1
    await reports.look()
    assert "morning-1" not in page.read_text()
    clock.now = NIGHT.end
    # Also by a process that did not make the first one.
    await mornings(store, store_url, folder, clock).look()
    assert "morning-1" in page.read_text()
    assert "The night goes on" not in page.read_text()
    made = page.stat().st_ino
    clock.now += HOUR
    await reports.look()
    assert page.stat().st_ino == made


async def test_a_report_with_open_slides_is_written_anew_until_all_have_ended(
    store: NightStore, store_url: str, folder: Path
) -> None:
    await a_batch(store)
    late = await store.batch("night-2", 1)
    clock = Wall(EVENING)
    reports = mornings(store, store_url, folder, clock)
    clock.now = SEVEN
    await reports.look()
    page = folder / "night-2026-11-25.html"
    assert "have no end yet" in page.read_text()
    await store.succeeded(late, 0)
    await store.end(late, "S", SEVEN + 60)
    clock.now = SEVEN + AGAIN_S - 1
    await reports.look()
    assert "have no end yet" in page.read_text()
    clock.now = SEVEN + AGAIN_S
    await reports.look()
    assert "Every slide has an end" in page.read_text()


async def test_a_morning_that_was_missed_is_caught_up_on_and_one_before_the_installation_is_not(
    store: NightStore, store_url: str, folder: Path
) -> None:
    await store.objects.put("models/x", b"")
    clock = Wall(SEVEN + 3 * HOUR)
    await mornings(store, store_url, folder, clock).look()
    assert pages(folder) == []
    await a_batch(store)
    await mornings(store, store_url, folder, clock).look()
    assert pages(folder) == ["night-2026-11-25.html"]


async def test_what_is_accepted_on_the_first_morning_is_in_a_report_too(
    store: NightStore, store_url: str, folder: Path
) -> None:
    await store.objects.put("models/x", b"")
    clock = Wall(SEVEN + HOUR)
    reports = mornings(store, store_url, folder, clock)
    await reports.look()
    await a_batch(store, at=SEVEN + 2 * HOUR)
    clock.now = NIGHT.end
    await reports.look()
    assert pages(folder) == ["night-2026-11-25.html"]


async def test_a_morning_after_a_night_without_slides_has_its_report(
    store: NightStore, store_url: str, folder: Path
) -> None:
    await store.objects.put("models/x", b"")
    clock = Wall(EVENING)
    reports = mornings(store, store_url, folder, clock)
    clock.now = SEVEN
    await reports.look()
    assert "No slide was accepted in this night" in (folder / "night-2026-11-25.html").read_text()


async def test_reports_are_deleted_at_the_end_of_their_time_and_nothing_else_is(
    store: NightStore, store_url: str, folder: Path
) -> None:
    await a_batch(store)
    folder.mkdir()
    for name in ("night-2026-10-20.html", "night-2026-10-30.html", "notes.html"):
        (folder / name).write_text("")
    await mornings(store, store_url, folder, Wall(SEVEN), keep_days=30).look()
    assert pages(folder) == ["night-2026-10-30.html", "night-2026-11-25.html", "notes.html"]


async def test_a_store_that_is_away_is_tried_again_and_each_failure_is_counted(
    store: NightStore, store_url: str, folder: Path
) -> None:
    clock, metrics = Wall(EVENING), Metrics()
    reports = mornings(store, store_url, folder, clock, metrics)
    clock.now = SEVEN
    for _ in range(2):
        await reports.look()
    assert pages(folder) == []
    assert read(metrics, "report_failures_total") == 2
    await a_batch(store)
    await reports.look()
    assert pages(folder) == ["night-2026-11-25.html"]
    assert read(metrics, "report_failures_total") == 2


async def test_metrics_tell_when_the_last_report_was_written_and_for_how_long_one_is_missing(
    store: NightStore, store_url: str, folder: Path
) -> None:
    clock, metrics = Wall(SEVEN - 1), Metrics()
    reports = mornings(store, store_url, folder, clock, metrics)
    await store.objects.put("models/x", b"")
    await reports.look()  # nothing was accepted before gramserve came
    assert (read(metrics, "report_overdue_seconds"), read(metrics, "report_written_timestamp_seconds")) == (0, None)
    await a_batch(store)
    clock.now = SEVEN + 40
    assert read(metrics, "report_overdue_seconds") == 40
    await reports.look()
    assert read(metrics, "report_overdue_seconds") == 0
    assert read(metrics, "report_written_timestamp_seconds") == SEVEN + 40
    clock.now = NIGHT.end + 7  # that of the whole night
    assert read(metrics, "report_overdue_seconds") == 7
    await reports.look()
    assert read(metrics, "report_overdue_seconds") == 0
    clock.now = SEVEN + DAY + 2
    # Also what a process tells that did not write it.
    again = Metrics()
    mornings(store, store_url, folder, clock, again)
    assert read(again, "report_overdue_seconds") == 2
    assert read(again, "report_written_timestamp_seconds") == NIGHT.end + 7


@pytest.mark.parametrize(
    ("setting", "said"), [("GRAMSERVE_REPORT_METRICS_HOST", "plain text"), ("", "is the port taken?")]
)
async def test_metrics_that_cannot_be_shown_are_said_in_one_line_at_the_start(
    store_url: str, folder: Path, setting: str, said: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {
            **os.environ,
            "GRAMSERVE_STORE_URL": store_url,
            "GRAMSERVE_REPORT_FOLDER": str(folder),
            "GRAMSERVE_REPORT_METRICS_PORT": str(taken.getsockname()[1]),
            setting or "GRAMSERVE_REPORT_METRICS_HOST": "0.0.0.0" if setting else "127.0.0.1",
        }
        command = [sys.executable, "-m", "gramserve.night"]
        done = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert said in done.stderr


@pytest.mark.parametrize("at", ["7:00", "24:00", "morning", "07:60"])
def test_what_is_no_time_of_day_is_refused(at: str) -> None:
    with pytest.raises(InvalidInput, match="GRAMSERVE_REPORT_AT"):
        load(ReportSettings, at=at)


async def test_gramserve_up_writes_the_report_of_the_night_before(tmp_path: Path) -> None:
    today = datetime.fromtimestamp(time.time()).astimezone().date()
    night = Night.of(today - timedelta(days=1))
    store = NightStore(open_store(str(tmp_path / "up" / "store")))
    await a_batch(store, at=night.begin + HOUR)
    environment = {"GRAMSERVE_REPORT_AT": "00:00"}
    async with running(tmp_path / "up", environment=environment) as up:
        page = up.folder / "reports" / f"night-{night.day.isoformat()}.html"
        await until(page.is_file, what="the report")
        assert "Every slide has an end. 1 were accepted" in " ".join(page.read_text().split()).replace("</strong>", "")
        log = up.folder / "logs" / "report.log"
        await until(lambda: "night report written" in log.read_text())
        told = [json.loads(line) for line in log.read_text().splitlines()]
        assert told[0]["event"] == "ready"
        assert all("night-1" not in json.dumps(line) for line in told)  # no slide, no batch
    assert await asyncio.to_thread(page.is_file)
