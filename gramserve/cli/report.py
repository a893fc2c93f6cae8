"""gramserve report: what became of every slide of a night, as one HTML page."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import Annotated

import typer

from gramserve.cli.speech import SLIDES_FAILED, console, refuse, run
from gramserve.cli.store_option import STORE, Store, local_actor
from gramserve.night.facts import ENDS, NightFacts
from gramserve.night.window import Night, parse_day

LAST = "last"


def report(
    night: Annotated[
        str,
        typer.Option(help="The day on whose evening the night began, such as 2026-11-25.", metavar="DATE"),
    ] = LAST,
    output: Annotated[
        Path | None, typer.Option(help="Write the page there; else to night-DATE.html.", metavar="FILE.html")
    ] = None,
    store: Store = STORE,
    allowed_root: Annotated[
        list[str] | None,
        typer.Option(
            envvar="GRAMSERVE_WORKER_ALLOWED_ROOTS",
            help="Folder that references of slides may lead to, as for the workers; for pictures. May be repeated.",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Write the report of a night, from noon to noon. Exit code 1: slides have no end, or the records disagree.

    The page holds slide ids, calls and pictures of tissue: it belongs in the hospital.
    """
    if importlib.util.find_spec("jinja2") is None:
        raise refuse("jinja2 is missing: pip install 'gramserve[worker]'")
    now = time.time()
    roots = [part for root in allowed_root or () for part in root.split(",") if part]  # "/a, /b" comes as "/a,", "/b"
    if not all(Path(root).is_absolute() for root in roots):
        raise refuse("--allowed-root must be an absolute path")

    async def write() -> tuple[NightFacts, Path]:
        from gramserve.night.report import write_report  # noqa: PLC0415  jinja2 comes with an extra

        chosen = Night.last(now) if night == LAST else Night.of(parse_day(night))
        page = output or Path(f"night-{chosen.day.isoformat()}.html")
        return await write_report(store, chosen, page, now=now, actor=local_actor(), roots=roots), page

    facts, page = run(write())
    ends = " + ".join(f"{facts.states[state]} {state.value.lower()}" for state in ENDS)
    left = f" + {facts.open} without an end" if facts.open else ""
    console().print(f"night of {facts.night.day}: {facts.accepted} accepted = {ends}{left}")
    for problem in facts.problems:
        console().print(f"does not agree: {problem}")
    console().print(f"written: {page}")
    if not facts.adds_up:
        raise typer.Exit(SLIDES_FAILED)
