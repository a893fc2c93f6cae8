"""make bench: measures the whole stack beside a bare loop, writes benchmarks/results/spine.json, prints tables."""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import artifact, end_to_end, fields, submit
from benchmarks.report import show, write
from benchmarks.stack import Stack, running

ROOT = Path(__file__).resolve().parent


def idle(stack: Stack, seconds: float) -> dict[str, float]:
    """Share of one core that each role uses while there is nothing to do."""
    before = stack.usage()
    time.sleep(seconds)
    after = stack.usage()
    return {role: (after[role].cpu_s - before[role].cpu_s) / seconds for role in after if role in before}


def run(rounds: int, scale: float) -> dict[str, Any]:
    """All measurements, in a folder that is removed afterwards."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as exits:
        folder = Path(temporary)
        manifests = folder / "manifests"
        manifests.mkdir()
        os.environ["GRAMSERVE_GATEWAY_MANIFEST_ROOTS"] = str(manifests)
        digest = artifact.publish(folder / "data/store")
        large = fields.draw(folder / "large", 32, 4 * artifact.TILE_PX)
        small = fields.draw(folder / "small", 32, artifact.TILE_PX)
        stack = exits.enter_context(running(folder / "data"))
        bare = end_to_end.bare_loops(stack, digest, len(os.sched_getaffinity(0)), exits)
        figures["memory_mib_at_start"] = memory(stack)
        workloads = (
            end_to_end.Workload("16 tiles a slide", large, int(400 * scale), 16),
            end_to_end.Workload("1 tile a slide", small, int(2000 * scale), 1),
        )
        figures["end_to_end"] = {w.name: end_to_end.measure(stack, bare, w, rounds) for w in workloads}
        figures["memory_mib_after"] = memory(stack)
        figures["submit"] = asyncio.run(submit.measure(stack, small[0], manifests, 10))
        figures["idle_cpu"] = idle(stack, 20 if scale >= 1 else 5)
    return figures


def memory(stack: Stack) -> dict[str, float]:
    """Resident MiB of each role, all its processes together."""
    return {role: round(usage.rss_mib, 1) for role, usage in stack.usage().items()}


def tables(figures: dict[str, Any]) -> None:
    """Print the figures for people."""
    rows = []
    for name, result in figures["end_to_end"].items():
        rows.append(
            (
                name,
                f"{result['slides_per_s']['median']:.1f}",
                f"{result['tiles_per_s']['median']:.0f}",
                f"{result['bare_slides_per_s']['median']:.1f}",
                "{median:.2f} ({min:.2f} to {max:.2f})".format(**result["ratio_to_bare"]),
            )
        )
    show("End to end beside the bare loop", ("slides", "slides/s", "tiles/s", "bare slides/s", "ratio"), rows)
    roles = sorted({role for r in figures["end_to_end"].values() for role in r["cpu_ms_per_slide"]})
    show(
        "CPU per slide, ms",
        ("slides", *roles),
        [
            (name, *(f"{r['cpu_ms_per_slide'][role]['median']:.2f}" for role in roles))
            for name, r in figures["end_to_end"].items()
        ],
    )
    show(
        "Accepted after, ms",
        ("slides", "inline", "by manifest"),
        [
            (count, f"{r['inline_ms']['median']:.1f}", f"{r['manifest_ms']['median']:.1f}")
            for count, r in figures["submit"].items()
        ],
    )
    roles = sorted(figures["memory_mib_after"])
    show(
        "Memory, MiB, and idle CPU, % of a core",
        ("", *roles, "all"),
        [
            *(
                (when, *(f"{figures[key].get(role, 0):.0f}" for role in roles), f"{sum(figures[key].values()):.0f}")
                for when, key in (("at start", "memory_mib_at_start"), ("after", "memory_mib_after"))
            ),
            (
                "idle CPU",
                *(f"{100 * figures['idle_cpu'].get(role, 0):.2f}" for role in roles),
                f"{100 * sum(figures['idle_cpu'].values()):.2f}",
            ),
        ],
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of bare loop and stack in turn")
    parser.add_argument("--quick", action="store_true", help="a tenth of the slides, one round, nothing written")
    options = parser.parse_args()
    measured = run(1, 0.1) if options.quick else run(options.rounds, 1.0)
    tables(measured)
    if not options.quick:
        print(f"written: {write('spine', measured, ROOT / 'results').relative_to(ROOT.parent)}")
