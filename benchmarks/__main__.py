"""make bench: measures gramserve beside a bare loop and other servers; writes results, tables and the picture.

Each benchmark is a function of the run, in BENCHMARKS by its name. A full run writes benchmarks/results/serving.json
and the figures of docs/benchmarks.md; with --only the other benchmarks keep what they had there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    artifact,
    end_to_end,
    field,
    gateway_cost,
    growth,
    limits,
    metrics_cost,
    page,
    queue_cost,
    stat,
    submit,
    whole_slides,
)
from benchmarks.bench import FULL, QUICK, Bench
from benchmarks.peers import measure as peers
from benchmarks.report import show
from benchmarks.tables import tables

ROOT = Path(__file__).resolve().parent


def measure_limits(bench: Bench) -> dict[str, Any]:
    """What a core can do, and how near decoding and inference come."""
    decoded = {w.name: (w.model, w.fields[0]) for w in (bench.large, bench.small)}
    return limits.measure(bench.published, decoded, bench.extent.seconds)


def measure_field(bench: Bench) -> dict[str, Any]:
    """A field from bytes to call beside the naive path."""
    return field.measure(bench.published, 3 * bench.extent.seconds)


def measure_peers(bench: Bench) -> dict[str, Any]:
    """The worker beside other servers."""
    return peers.measure(
        bench.data_dir,
        bench.published.folders[artifact.TILES] / "model.onnx",
        edge=artifact.TILE_PX,
        cores=bench.cores,
        rounds=min(bench.extent.rounds, 3),
        seconds=bench.extent.seconds,
        wanted=() if bench.extent is FULL else ("bare", "kserve"),
    )


def measure_end_to_end(bench: Bench) -> dict[str, Any]:
    """Slides per second, CPU by role and time by stage of both workloads."""
    return {
        workload.name: end_to_end.measure(bench.stack, bench.bare, workload, bench.extent.rounds)
        for workload in (bench.large, bench.small)
    }


def measure_scaling(bench: Bench) -> dict[str, Any]:
    """A child for each core over a single child."""
    stacks = {1: bench.one_child, bench.cores: bench.stack}
    rounds = min(bench.extent.rounds, 3)
    return {
        workload.name: end_to_end.scaling(stacks, workload.of(2 * workload.slides), rounds)
        for workload in (bench.large, bench.small)
    }


def measure_submit(bench: Bench) -> dict[str, Any]:
    """How long a client waits for "accepted"."""
    repeats = bench.extent.of(10)
    return asyncio.run(submit.measure(bench.stack, bench.small.fields[0], bench.manifests, repeats))


def measure_idle(bench: Bench) -> dict[str, Any]:
    """Share of a core, and MiB, of each role while there is nothing to do."""
    seconds = 5 * bench.extent.seconds
    before = bench.stack.usage()
    time.sleep(seconds)
    after = bench.stack.usage()
    return {
        "cpu": {role: (after[role].cpu_s - before[role].cpu_s) / seconds for role in after if role in before},
        "memory_mib": {role: usage.rss_mib for role, usage in after.items()},
    }


def measure_stat(bench: Bench) -> dict[str, Any]:
    """A STAT slide under a backlog of routine slides, beside an idle system."""
    rounds = min(bench.extent.rounds, 3)
    calls = bench.extent.of(40)
    return stat.measure(bench.stack, bench.tiles.fields, slides=bench.tiles.slides, count=calls, rounds=rounds)


def measure_whole_slides(bench: Bench) -> dict[str, Any]:
    """Whole slides beside a bare OpenSlide loop."""
    drawn = whole_slides.draw(bench.folder / "whole", bench.cores)
    slides = drawn * (3 if bench.extent is FULL else 1)
    return whole_slides.measure(bench.stack, bench.published, slides, min(bench.extent.rounds, 3))


def measure_queue_cost(bench: Bench) -> dict[str, Any]:
    """What a slide costs in the queue while few and while very many wait."""
    return queue_cost.measure(bench.extent.of(40))


def measure_gateway_cost(bench: Bench) -> dict[str, Any]:
    """What a slide costs the gateway and Redis, a stand-in doing the work."""
    return gateway_cost.measure(min(bench.extent.rounds, 3), bench.extent.of(2000))


def measure_metrics_cost(bench: Bench) -> dict[str, Any]:
    """CPU of a stack with metrics over that of one without."""
    silent = metrics_cost.unmeasured()
    with bench.another_stack("measured") as usual, bench.another_stack("unmeasured", variables=silent) as without:
        return metrics_cost.measure(usual, without, bench.tiles, 3 * bench.extent.rounds)


def measure_growth(bench: Bench) -> dict[str, Any]:
    """Memory after many slides over memory after few."""
    few, many = (growth.FEW, growth.MANY) if bench.extent is FULL else (1000, 2000)
    with bench.another_stack("growth") as stack:
        return growth.measure(stack, bench.tiles.fields, few, many)


# What needs the whole machine for a while comes first: from the first use of the stack on it stays up.
BENCHMARKS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "limits": measure_limits,
    "field": measure_field,
    "peers": measure_peers,
    "end_to_end": measure_end_to_end,
    "scaling": measure_scaling,
    "submit": measure_submit,
    "stat": measure_stat,
    "whole_slides": measure_whole_slides,
    "queue_cost": measure_queue_cost,
    "gateway_cost": measure_gateway_cost,
    "metrics_cost": measure_metrics_cost,
    "growth": measure_growth,
    "idle": measure_idle,
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of everything in two minutes, nothing written")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--output", type=Path, metavar="FILE", help="the figures of this run as JSON, in any case")
    options = parser.parse_args()
    measured: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="gramserve-bench-") as folder, ExitStack() as exits:
        bench = Bench(Path(folder), QUICK if options.quick else FULL, exits)
        for name in [name for name in BENCHMARKS if not options.only or name in options.only]:
            began = time.monotonic()
            print(f"{name} ...", end=" ", flush=True)
            stamp = datetime.now(UTC).isoformat(timespec="seconds")
            measured[name] = {"measured": stamp, "figures": BENCHMARKS[name](bench)}
            print(f"{time.monotonic() - began:.0f} s", flush=True)
    for table in tables(measured):
        show(table.title, table.head, table.rows)
    if options.output:
        options.output.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    if not options.quick:
        for path in page.publish(measured, ROOT / "results", ROOT.parent / "docs"):
            print(f"written: {path.relative_to(ROOT.parent)}")


if __name__ == "__main__":
    main()
