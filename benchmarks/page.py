"""What a full run leaves in the project: serving.json, the tables of docs/benchmarks.md and its picture."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.plot import draw
from benchmarks.report import write
from benchmarks.tables import Table, tables

NAME = "serving"
BEGIN, END = "<!-- figures: written by make bench -->", "<!-- end of figures -->"


def publish(sections: Mapping[str, Any], results: Path, docs: Path) -> list[Path]:
    """Writes `sections` over those of an earlier run, draws and tabulates all; returns the files written."""
    earlier = results / f"{NAME}.json"
    kept = json.loads(earlier.read_text(encoding="utf-8"))["sections"] if earlier.exists() else {}
    written = write(NAME, {"sections": {**kept, **sections}}, results)
    content = json.loads(written.read_text(encoding="utf-8"))
    page, picture = docs / "benchmarks.md", docs / "benchmarks.svg"
    page.write_text(with_figures(page.read_text(encoding="utf-8"), content), encoding="utf-8")
    draw(content["sections"], picture)
    return [written, page, picture]


def with_figures(text: str, content: Mapping[str, Any]) -> str:
    """The page with the tables of a results file between its two marks."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{markdown(content)}{END}{tail}"


def markdown(content: Mapping[str, Any]) -> str:
    """The machine, then every table."""
    machine, sections = content["machine"], content["sections"]
    days = sorted(section["measured"][:10] for section in sections.values())
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    facts = (
        f"Measured {' to '.join(dict.fromkeys((days[0], days[-1])))} on {machine['cores']} cores of {machine['cpu']} "
        f"({', '.join(machine['vector'])}), {machine['memory_gib']} GiB, Python {machine['python']}, {packages}."
    )
    lines = [facts, ""]
    for table in tables(sections):
        lines += _table(table)
    return "\n".join(lines)


def _table(table: Table) -> list[str]:
    rows = [table.head, ["---"] * len(table.head), *table.rows]
    return [f"### {table.title}", *("| " + " | ".join(row) + " |" for row in rows), ""]
