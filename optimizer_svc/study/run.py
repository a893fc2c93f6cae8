"""A whole study: one architecture after the other, and the report of those that are done after each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optimizer_svc.study.document import document, table
from optimizer_svc.study.page import render_page
from optimizer_svc.study.process import run_apart
from optimizer_svc.study.spec import StudySpec, Task

Runner = Callable[[Task, Path, Callable[[str, float], None]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StudyProgress:
    """How far a study is: `done` of `total` architectures, and `fraction` (0 to 1) of the one that runs."""

    architecture: str
    message: str
    done: int
    total: int
    fraction: float


def run_study(
    spec: StudySpec,
    progress: Callable[[StudyProgress], None] = lambda _progress: None,
    *,
    runner: Runner = run_apart,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> dict[str, Any]:
    """Runs the study and gives its document; study.json, study.csv and study.html in `spec.output` say the same.

    They are written after each architecture. An architecture that fails has a `failure` (a sentence) and ends nothing.
    What is finished is kept: the same study goes on where it was stopped. Raises InvalidInput for a spec that could
    never work.
    """
    spec.check()
    spec.output.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    total = len(spec.architectures)
    written = document(spec, results, now())
    for done, architecture in enumerate(spec.architectures):

        def say(text: str, fraction: float, name: str = architecture, number: int = done) -> None:
            progress(StudyProgress(name, text, number, total, fraction))

        say("Getting ready", 0.0)
        found = runner(spec.task(architecture), spec.folder(architecture), say)
        results.append({"architecture": architecture, "failure": "", **found})
        written = document(spec, results, now())
        _write(spec.output, written)
        say(results[-1]["failure"] or "Done", 1.0)
    return written


def _write(folder: Path, written: dict[str, Any]) -> None:
    """The three files, each whole or not at all."""
    for name, data in (
        ("study.json", json.dumps(written, indent=1, allow_nan=False).encode() + b"\n"),
        ("study.csv", table(written)),
        ("study.html", render_page(written)),
    ):
        part = folder / f"{name}.part"
        part.write_bytes(data)
        part.rename(folder / name)
