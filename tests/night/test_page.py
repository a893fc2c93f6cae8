"""The page of a night: says what is, shouts at what should not be, loads nothing, and can be read anywhere."""

from __future__ import annotations

import re
import stat
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from typer.testing import CliRunner

from gramserve.cli import app
from gramserve.night.report import write_report
from gramserve.store.audit_verify import read_audit
from gramserve.store.objects import open_store
from gramserve.store.records import Priority
from tests.artifacts import coloured_file
from tests.night.browser import CHROMIUM, LAPTOP, PHONE, screenshot
from tests.night.nights import EVENING, HOUR, NIGHT, NightStore, call

MORNING = EVENING + 11 * HOUR
browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not here")


class Page(HTMLParser):
    """What a browser would show and load."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._hidden = tag in {"style", "title"}
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "data", "action"}]

    def handle_endtag(self, tag: str) -> None:
        self._hidden = False

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


async def written(store: NightStore, store_url: str, folder: Path) -> tuple[Path, Page]:
    output = folder / "night.html"
    await write_report(store_url, NIGHT, output, now=MORNING, actor="local:operator")
    return output, Page(output.read_text())


async def a_night(store: NightStore) -> None:
    """Two batches with all that a page can show."""
    images = [(await store.image(coloured_file(label, 300, 300)),) for label in ("GNR", "GPR")]
    batch = await store.batch("night-1", 6, deliver_by=EVENING + 5 * HOUR, images=images)
    await store.succeeded(batch, 0, call=call(review=["LOW_CONFIDENCE"]), wait_s=500)
    await store.succeeded(batch, 1, wait_s=4000)
    await store.failed(batch, 2, wait_s=7000)
    await store.succeeded(batch, 3, wait_s=12_000)
    await store.end(batch, "SSFSEE", EVENING + 5 * HOUR, review=1)
    stat = await store.batch("stat-1", 1, priority=Priority.STAT, images=images)
    await store.succeeded(stat, 0, call=call(review=["MIXED_GROWTH"]), wait_s=0.02)
    await store.end(stat, "S", EVENING + 10, review=1)


async def test_the_page_says_what_became_of_every_slide(store: NightStore, store_url: str, tmp_path: Path) -> None:
    await a_night(store)
    _, page = await written(store, store_url, tmp_path)
    assert "Night of Wednesday, 25 November 2026" in page.text
    assert "Every slide has an end. 7 were accepted, 7 have ended" in page.text
    assert "7 accepted = 4 succeeded + 1 failed + 2 expired + 0 cancelled" in page.text
    assert "CORRUPT_IMAGE 1 A sentence about CORRUPT_IMAGE. night-1-2 at 21:56" in page.text
    assert "STAT stat-1-0 GNR 0.97 (few) mixed growth north/stat-1, slide 0" in page.text
    assert page.text.index("stat-1-0") < page.text.index("night-1-0 GNR")  # STAT comes first
    assert "models/gram/versions/3 dddddddddddd 4 50.0 %" in page.text
    assert "It belongs in the hospital" in page.text
    assert [load[:22] for load in page.loads] == ["data:image/jpeg;base64"] * 2


async def test_every_hour_stands_under_the_bar_of_that_hour(store: NightStore, store_url: str, tmp_path: Path) -> None:
    batch = await store.batch("night-few", 2)
    await store.succeeded(batch, 0, wait_s=60)
    await store.succeeded(batch, 1, wait_s=3700)
    output, _ = await written(store, store_url, tmp_path)
    titles = re.findall(r'class="bar" title="(\d\d:\d\d) to', output.read_text())
    assert titles[:5] == ["20:00", "20:15", "20:30", "20:45", "21:00"]
    assert len(titles) == 16
    hours = re.findall(r'<span style="left:([\d.]+)%">(\d\d:\d\d)', output.read_text())
    assert hours
    assert all(titles[round(float(left) / 100 * len(titles))] == hour for left, hour in hours)


async def test_open_slides_are_told_before_all_else(store: NightStore, store_url: str, tmp_path: Path) -> None:
    await a_night(store)
    await store.batch("night-open", 1200)
    _, page = await written(store, store_url, tmp_path)
    assert "1,200 of 1,207 slides have no end yet." in page.text
    assert "+ 1,200 no end yet" in page.text
    assert "Every slide has an end" not in page.text


async def test_records_that_disagree_are_shouted_out(store: NightStore, store_url: str, tmp_path: Path) -> None:
    batch = await store.batch("night-lost", 2)
    await store.succeeded(batch, 0)
    await store.end(batch, "SS", EVENING + HOUR)
    _, page = await written(store, store_url, tmp_path)
    assert "The records do not agree. Do not rely on this night" in page.text
    assert "north/night-lost: 1 slides have ended, and their outcomes are missing" in page.text
    assert "Every slide has an end" not in page.text


async def test_a_night_without_slides_says_so(store: NightStore, store_url: str, tmp_path: Path) -> None:
    await store.objects.put("models/x", b"")
    _, page = await written(store, store_url, tmp_path)
    assert "No slide was accepted in this night." in page.text


async def test_nothing_that_a_laboratory_sent_becomes_part_of_the_page_and_nothing_is_loaded(
    store: NightStore, store_url: str, tmp_path: Path
) -> None:
    evil = "<script>alert(1)</script>"
    batch = await store.batch("night-evil", 2)
    said = call(label=evil, review=[evil])
    await store.succeeded(batch, 0, call=said, engine=evil)
    await store.failed(batch, 1, evil)
    output, page = await written(store, store_url, tmp_path)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert evil in page.text  # as words
    assert all(load.startswith("data:image/jpeg") for load in page.loads)
    assert "default-src 'none'" in output.read_text()


async def test_the_page_is_for_its_owner_and_the_reading_is_recorded(
    store: NightStore, store_url: str, tmp_path: Path
) -> None:
    await a_night(store)
    output, _ = await written(store, store_url, tmp_path)
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
    records = [record async for record in read_audit(open_store(store_url))]
    assert [(r.actor, r.action, r.object) for r in records] == [("local:operator", "results.read", "nights/2026-11-25")]


async def test_the_report_of_a_store_on_S3_is_the_same(s3_url: str, tmp_path: Path) -> None:
    store = NightStore(open_store(s3_url))
    await a_night(store)
    _, page = await written(store, s3_url, tmp_path)
    assert "7 accepted = 4 succeeded + 1 failed + 2 expired + 0 cancelled" in page.text
    assert "Every slide has an end." in page.text
    assert len(page.loads) == 2


@browser
@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_a_browser_shows_it_in_light_and_dark_at_laptop_and_phone_width(
    store: NightStore, store_url: str, tmp_path: Path, size: tuple[int, int], dark: bool
) -> None:
    await a_night(store)
    output, _ = await written(store, store_url, tmp_path)
    shown = screenshot(output, size, dark=dark)
    paper = np.array([0x15, 0x13, 0x1A] if dark else [0xFF, 0xFF, 0xFF])
    assert (shown[0, 0] == paper).all()
    # Nothing is wider than the window: the margin at its right edge is paper from top to bottom.
    assert (shown[:, -8:] == paper).all()
    # There is text all the way down, in ink that stands out, and the colours of the states are in the chart.
    ink = np.abs(shown.astype(int) - paper).sum(axis=2)
    assert (ink.max(axis=1).reshape(-1, 100).max(axis=1)[:15] > 300).all()
    for colour in ((0x45, 0xA3, 0x91), (0xF0, 0x64, 0x5C)) if dark else ((0x3B, 0x8F, 0x80), (0xD0, 0x45, 0x45)):
        assert (shown == colour).all(axis=2).sum() > 50


@pytest.mark.parametrize("roots", ["/scans", "/scans,/more", "/scans, /more", "/scans,"])
def test_the_command_takes_the_folders_as_they_are_set_for_the_workers(roots: str, tmp_path: Path) -> None:
    (tmp_path / "store" / "batches").mkdir(parents=True)
    words = ["report", "--store", str(tmp_path / "store"), "--output", str(tmp_path / "night.html")]
    done = CliRunner().invoke(app, words, env={"GRAMSERVE_WORKER_ALLOWED_ROOTS": roots})
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("night", ["9999-12-31", "9999-01-01", "1969-12-31", "0001-01-01", "2026-02-30", "20261125"])
def test_a_night_that_cannot_be_is_refused_in_one_line(night: str, tmp_path: Path) -> None:
    done = _report(night, tmp_path)
    assert (done.exit_code, done.output.count("\n")) == (2, 1)
    assert "gramserve: a night must be " in done.output


@pytest.mark.parametrize("night", ["1970-01-01", "9998-12-31"])
def test_the_first_and_the_last_night_have_a_report(night: str, tmp_path: Path) -> None:
    done = _report(night, tmp_path)
    assert done.exit_code == 0, done.output
    assert "No slide was accepted in this night" in (tmp_path / "night.html").read_text()


def _report(night: str, folder: Path) -> Result:
    (folder / "store" / "batches").mkdir(parents=True)
    words = ["report", "--night", night, "--store", str(folder / "store"), "--output", str(folder / "night.html")]
    return CliRunner().invoke(app, words)
