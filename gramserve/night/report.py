"""Making the report of a night: survey, earlier nights, pictures, page."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

from gramserve.night.earlier import earlier
from gramserve.night.facts import NightFacts
from gramserve.night.page import render
from gramserve.night.pictures import Pictures
from gramserve.night.survey import survey
from gramserve.night.window import Night
from gramserve.output_file import part_of
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.format import require_store
from gramserve.store.objects import open_store
from gramserve.store.records import Priority

EARLIER_NIGHTS = 7
PICTURED = 60
"""Slides for review that get pictures; the others are listed without."""


async def write_report(
    store_url: str, night: Night, output: Path, *, now: float, actor: str, roots: Sequence[str] = ()
) -> NightFacts:
    """Write the report of `night`, as of `now` (Unix seconds), to `output`, readable by its owner alone.

    `roots` are folders that references of slides may lead to. That `actor` reads results is recorded first.
    Raises InvalidInput when nothing is stored there, Unavailable, RecordCorrupt, AuditBroken, OSError.
    """
    objects = open_store(store_url)
    await require_store(objects, store_url)  # a mistyped folder is not made
    await AuditLog(objects).record(Action.RESULTS_READ, f"nights/{night.day.isoformat()}", actor=actor)
    facts = await survey(objects, night, now)
    before = await earlier(objects, [night.before(days) for days in range(1, EARLIER_NIGHTS + 1)])
    page = render(facts, before, await _pictures(facts, store_url, roots))
    await asyncio.to_thread(_write, output, page.encode())
    return facts


async def _pictures(
    facts: NightFacts, store_url: str, roots: Sequence[str]
) -> dict[tuple[str, str, int], list[str | None]]:
    reviews = [review for priority in reversed(Priority) for review in facts.reviews[priority]][:PICTURED]
    async with Pictures(store_url, roots) as pictures:
        return {
            (review.place.laboratory, review.place.batch, review.place.index): await pictures.of(review)
            for review in reviews
        }


def _write(output: Path, data: bytes) -> None:
    """All of it or nothing, for its owner alone."""
    partial = part_of(output)
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        os.fchmod(handle, 0o600)
    partial.replace(output)
