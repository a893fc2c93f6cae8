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
    parts = {
        "redis": _table(redis_table(limits)),
        "waiting": waiting_text(limits),
        "night": _table(night_table(serving)),
    }
    for name, part in parts.items():
        begin, end = f"<!-- {name}: docs/generate.py -->\n", f"<!-- end of {name} -->"
        body = begin + part + end
        text, found = re.subn(
            f"{re.escape(begin)}.*?{re.escape(end)}", lambda _, body=body: body, text, flags=re.DOTALL
        )
        assert found == 1, f"docs/scaling.md has one place for the table {name}"
    return text


def redis_table(limits: dict[str, Any]) -> list[Sequence[str]]:
    """What each number of clients got done, and what it cost Redis."""
    head = (
        *("clients", "slides a call", "over", "slides/s", "calls/s", "Redis busy", "CPU a slide"),
        *("calls/s of a whole core", "slides/s of one"),
    )
    rows = []
    for row in limits["served"]:
        median = {name: spread["median"] for name, spread in row.items() if isinstance(spread, dict)}
        cpu_us = row["redis_us_per_slide"]
        rows.append(
            (
                str(row["clients"]),
                str(row["together"]),
                "TLS" if row["tls"] else "socket",
                f"{median['slides_per_s']:,.0f}",
                f"{median['calls_per_s']:,.0f}",
                f"{median['redis_cpu_share']:.0%}",
                f"{cpu_us['median']:.0f} µs ({cpu_us['min']:.0f} to {cpu_us['max']:.0f})",
                f"{median['calls_per_s_of_a_core']:,.0f}",
                f"{median['slides_per_s_of_a_core']:,.0f}",
            )
        )
    return [head, *rows]


def waiting_text(limits: dict[str, Any]) -> str:
    """What slides that wait take, and what ended ones leave on disk."""
    waits, served = limits["waiting"], limits["served"]
    cpu_s = waits["slides"] * waits["redis_us_per_slide"] / 1e6
    file_kb = max(row["aof_bytes_per_slide"]["median"] for row in served) / 1000
    least = min(row["slides_per_s_of_a_core"]["median"] for row in served)
    night = NIGHT_SLIDES / (NIGHT_HOURS * 3600)
    return f"""\
{waits["slides"]:,} slides that wait take {waits["mib"]:.0f} MiB ({waits["bytes_per_slide"]:.0f} bytes each);
taking them in kept Redis busy for {cpu_s:.1f} s. The append-only file grows by up to {file_kb:.1f} kB for each slide,
until Redis writes it anew. A million slides a night are {night:.0f} slides/s; the least of the last column is
{least:,.0f}, {least / night:.0f} times as many. The load of the two cores was {limits["load_1_min"]:.0f} at the end of
the measurement; on quiet ones a slide costs less.
"""


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
