"""Writes the pages of docs/ that follow from the code and its tests; `--check` says whether they have drifted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from promises import promises_page  # beside this file

from gateway.settings import GatewaySettings
from gramserve.metrics import SPECS
from gramserve.settings import SharedSettings, table
from inference_svc.settings import WorkerSettings
from optimizer_svc.settings import OptimizerSettings

DOCS = Path(__file__).resolve().parent
SERVICES: dict[str, type[SharedSettings]] = {
    "Gateway": GatewaySettings,
    "Worker": WorkerSettings,
    "Optimizer": OptimizerSettings,
}
SETTINGS_TEXT = """\
Services read their settings once, at start, from the environment. A name that begins with `GRAMSERVE_` and is not
listed here stops the start, so that a misspelled setting is never a silent default. Lists are written with commas
between.
"""
METRICS_TEXT = """\
Every process shows those of its own for Prometheus at `/metrics`, with its CPU, memory and garbage collections. A gauge
appears once it has a value. Histograms are in seconds, `call_confidence` is a probability. Labels take values from
closed sets, as are the labels, versions and engines of the artifacts that a worker ran last; none names a slide, a
batch or a patient.
"""
METRICS_USE = """\
## Reading them

- **What was accepted and what became of it.** Once all batches have ended, the sums over all processes since their
  start agree: `slides_accepted` + `slides_resubmitted` = `slides_finished` + `slides_ended`. A process that is killed
  takes what it counted in the last seconds with it; the store, and so the night report, is exact.
- **Drift.** `tile_calls` and `tile_scores` are what a version says here, `reference_tile_calls` and
  `reference_tile_scores` the shares that it said of the validation split on which it was accepted
  (`evaluation.reference` in its manifest, from the optimizer). Their population stability index is the sum of
  (a - e) ln(a / e) over labels or bands, of the shares here (a) and there (e): below 0.1 nothing has moved, above 0.25
  look before you believe it. A laboratory's mix of specimens is not that of the split: compare a version with its own
  last month, too.
- **How many series.** Those of a version go with it: a worker shows the versions that its children have loaded, and up
  to 16 of those used last, each with at most 64 labels. Closed sets are there from the start, at 0, so that the first
  count is an increase.
"""
NOTE = "<!-- Written by docs/generate.py from the code: change it there. -->\n"


def settings_page() -> str:
    """All settings: those of every service first, then each service's own."""
    shared = {row.name for row in table(SharedSettings)}
    parts = [
        "# Settings\n",
        NOTE,
        SETTINGS_TEXT,
        "## Every service\n",
        _settings_table(SharedSettings, set()),
    ]
    for title, settings in SERVICES.items():
        parts += [f"## {title}\n", _settings_table(settings, shared)]
    return "\n".join(parts)


def _settings_table(settings: type[SharedSettings], without: set[str]) -> str:
    rows = [
        f"| `{row.name}` | {f'`{row.default}`' if row.default else ''} | {_cell(row.description)} |\n"
        for row in table(settings)
        if row.name not in without
    ]
    return "| Variable | Default | What it does |\n|---|---|---|\n" + "".join(rows)


def metrics_page() -> str:
    """All metrics."""
    rows = [
        f"| `gramserve_{spec.name}{'_total' if spec.kind == 'counter' else ''}` | {spec.kind} | "
        f"{', '.join(f'`{label}`' for label in spec.labels)} | {_cell(spec.help)} |\n"
        for spec in SPECS
    ]
    return "\n".join(
        [
            "# Metrics\n",
            NOTE,
            METRICS_TEXT,
            "| Metric | Kind | Labels | What it counts |\n|---|---|---|---|\n" + "".join(rows),
            METRICS_USE,
        ]
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def pages() -> dict[str, str]:
    """What each generated page should hold, by file name."""
    return {"settings.md": settings_page(), "metrics.md": metrics_page(), "promises.md": promises_page()}


def drifted() -> list[str]:
    """Pages that differ from the code."""
    return [name for name, text in pages().items() if not _same(DOCS / name, text)]


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        if names := drifted():
            sys.exit("pages differ from the code; run `python docs/generate.py`: " + ", ".join(names))
    else:
        for name, text in pages().items():
            (DOCS / name).write_text(text)
