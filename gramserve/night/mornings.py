"""A report each morning: which are due, which have been written, which are old."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta, tzinfo
from pathlib import Path

from gramserve import log
from gramserve.access.principal import SYSTEM
from gramserve.errors import GramserveError
from gramserve.metrics import Metrics
from gramserve.night.facts import NightFacts
from gramserve.night.report import write_report
from gramserve.night.settings import ReportSettings
from gramserve.night.survey import any_accepted
from gramserve.night.window import Night
from gramserve.store.objects import open_store

LOOK_S = 30.0
"""Longest pause between two looks at the clock, which may be set meanwhile."""
AGAIN_S = 900.0
"""How often a report is written anew while slides of its night have no end."""
_NAME = re.compile(r"night-(\d{4}-\d{2}-\d{2})\.html")


class Mornings:
    """Writes `night-DATE.html` into a folder. `clock` is Unix seconds; `zone` None is local time.

    `metrics` show when that was done last, and since when it should have been.
    """

    def __init__(
        self, settings: ReportSettings, metrics: Metrics, clock: Callable[[], float], zone: tzinfo | None = None
    ) -> None:
        self._settings = settings
        self._folder = Path(settings.folder)
        self._clock = clock
        self._zone = zone
        self._started = clock()
        self._unfinished: date | None = None
        self._empty: tuple[date, float] | None = None
        self._failing = ""
        self._log = log.get()
        self._metrics = metrics
        metrics.follow("report_written_timestamp_seconds", self._last_written)
        metrics.follow("report_overdue_seconds", self._overdue_s)

    async def run(self, stop: asyncio.Event) -> None:
        """Look again and again until `stop` is set."""
        while not stop.is_set():
            await self.look()
            try:
                async with asyncio.timeout(LOOK_S):
                    await stop.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Write the report that is due, if any; an error is logged once, and what failed is tried at the next look."""
        try:
            await self._write_due()
            self._delete_old()
        except (GramserveError, OSError) as error:
            why = error.reason.value if isinstance(error, GramserveError) else log.describe(error)
            self._metrics.count("report_failures")
            if why != self._failing:
                self._log.warning("the night report could not be written", error=why)
            self._failing = why
        else:
            self._failing = ""

    async def _write_due(self) -> None:
        now = self._clock()
        due, night, page = self._wanted(now)
        if not await self._is_due(page, night, now, missed=due.timestamp() < self._started):
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = await write_report(
            self._settings.store_url, night, page, now=now, actor=SYSTEM, roots=self._settings.allowed_roots
        )
        os.utime(page, (now, now))
        self._unfinished = night.day if facts.open else None
        self._tell(facts)

    async def _is_due(self, page: Path, night: Night, now: float, *, missed: bool) -> bool:
        """Whether to write `page` now: it is missing, was made before its night ended, or had slides without an end.

        A morning that was `missed` is caught up on unless nothing was accepted: gramserve was not here yet.
        """
        made = await asyncio.to_thread(_made, page)
        if made is not None:
            return made < night.end <= now or (self._unfinished == night.day and now >= made + AGAIN_S)
        if not missed:
            return True
        if self._is_empty(night, now):
            return False
        self._empty = None if await any_accepted(open_store(self._settings.store_url), night) else (night.day, now)
        return self._empty is None

    def _is_empty(self, night: Night, now: float) -> bool:
        """Whether nothing was accepted in a `night` that was missed, as far as was looked."""
        return self._empty is not None and self._empty[0] == night.day and not self._empty[1] < night.end <= now

    def _overdue_s(self) -> float:
        """For how long the report has been due that is not there; 0 for none. In any thread."""
        now = self._clock()
        due, night, page = self._wanted(now)
        made = _made(page)
        if made is not None:
            return now - night.end if made < night.end <= now else 0.0
        return 0.0 if self._is_empty(night, now) else now - due.timestamp()

    def _last_written(self) -> float | None:
        """When the newest report was written, Unix seconds; None without one. In any thread."""
        try:
            times = [_made(page) for page in self._folder.iterdir() if _NAME.fullmatch(page.name)]
        except OSError:
            return None
        return max((made for made in times if made is not None), default=None)

    def _tell(self, facts: NightFacts) -> None:
        say = self._log.info if facts.adds_up else self._log.warning
        say(
            "night report written",
            night=facts.night.day.isoformat(),
            accepted=facts.accepted,
            open=facts.open,
            problems=len(facts.problems),
        )

    def _wanted(self, now: float) -> tuple[datetime, Night, Path]:
        """The last moment at which a report was due, its night and its page."""
        due = self._due(now)
        night = Night.of(due.date() - timedelta(days=1), self._zone)
        return due, night, self._folder / f"night-{night.day.isoformat()}.html"

    def _due(self, now: float) -> datetime:
        """The last moment at which a report was due."""
        today = datetime.fromtimestamp(now, self._zone)
        due = datetime.combine(today.date(), self._settings.time_of_day, self._zone)
        return due if due.timestamp() <= now else datetime.combine(due.date() - timedelta(days=1), due.timetz())

    def _delete_old(self) -> None:
        if not self._settings.keep_days or not self._folder.is_dir():
            return
        oldest = (datetime.fromtimestamp(self._clock(), self._zone) - timedelta(days=self._settings.keep_days)).date()
        for page in self._folder.iterdir():
            named = _NAME.fullmatch(page.name)
            if named is not None and named[1] < oldest.isoformat():
                page.unlink()
                self._log.info("night report deleted at the end of its time", night=named[1])


def _made(page: Path) -> float | None:
    """When a report was made, Unix seconds; None when it is missing."""
    try:
        return page.stat().st_mtime
    except OSError:
        return None
