"""The measured tables of docs/scaling.md, made from benchmarks/results; the text around them is written by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "scaling.md"
RESULTS = PAGE.parent.parent / "benchmarks/results"
NIGHT_SLIDES = 1_000_000
NIGHT_HOURS = 8
FIELDS = 20
"""Fields of a slide that was photographed through a microscope, for one row of the table."""
WSI_TILES = 2_000


def scaling_page() -> str:
    """The page with its tables as the results say."""
    text = PAGE.read_text(encoding="utf-8")
    limits, serving = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("redis_limits", "serving"))
    for name, lines in {"redis": redis_table(limits), "night": night_table(serving)}.items():
        begin, end = f"<!-- {name}: docs/generate.py -->\n", f"<!-- end of {name} -->"
        text, found = re.subn(
            f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, body=f"{begin}{_table(lines)}{end}": body, text, flags=re.S
        )
        assert found == 1, f"docs/scaling.md has one place for the table {name}"
    return text


def redis_table(limits: dict[str, Any]) -> list[Sequence[str]]:
    """What each number of clients got done, and what it cost Redis."""
    head = ("clients", "slides a call", "slides/s", "calls/s", "Redis busy", "CPU a slide", "slides/s of a whole core")
    rows = [
        (
            str(row["clients"]),
            str(row["together"]),
            f"{row['slides_per_s']['median']:,.0f}",
            f"{row['calls_per_s']['median']:,.0f}",
            f"{row['redis_cpu_share']['median']:.0%}",
            f"{row['redis_us_per_slide']['median']:.0f} µs ({row['redis_us_per_slide']['min']:.0f} to "
            f"{row['redis_us_per_slide']['max']:.0f})",
            f"{row['slides_per_s_of_a_core']['median']:,.0f}",
        )
        for row in limits["served"]
    ]
    return [head, *rows]


def night_table(serving: dict[str, Any]) -> list[Sequence[str]]:
    """Cores that a million slides in a night keep busy, by kind of slide."""
    figures = {name: section["figures"] for name, section in serving["sections"].items()}
    field = _cpu_ms(figures["end_to_end"]["64 tiles a slide"])
    tile = _cpu_ms(figures["end_to_end"]["one 500 x 500 tile a slide"])
    whole = dict(field, child=WSI_TILES * figures["whole_slides"]["child_cpu_ms_per_tile"]["median"])
    kinds = {
        "one small tile": tile,
        "one field of 64 tiles": field,
        f"{FIELDS} fields of 64 tiles": dict(field, child=FIELDS * field["child"]),
        f"whole slide of {WSI_TILES:,} tiles": whole,
    }
    head = ("a slide is", "CPU of a child", "children", "parents of workers", "gateways", "Redis")
    rows = [
        (
            name,
            f"{cpu_ms['child']:,.0f} ms",
            *(_cores(cpu_ms[role]) for role in ("child", "worker parent", "gateway", "redis")),
        )
        for name, cpu_ms in kinds.items()
    ]
    return [head, *rows]


def _cpu_ms(figures: dict[str, Any]) -> dict[str, float]:
    return {role: spread["median"] for role, spread in figures["cpu_ms_per_slide"].items()}


def _cores(cpu_ms: float) -> str:
    cores = NIGHT_SLIDES * cpu_ms / 1000 / (NIGHT_HOURS * 3600)
    return f"{cores:,.0f}" if cores >= 10 else f"{cores:.2g}"


def _table(lines: list[Sequence[str]]) -> str:
    head, *rows = lines
    marks = ["---", *["--:"] * (len(head) - 1)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, marks, *rows))
