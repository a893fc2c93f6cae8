"""`make soak MINUTES=60`: run a night, write what came out of it."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.soak import picture
from tests.soak.memory import Slope, slopes
from tests.soak.night import Night
from tests.soak.stack import running


def result(night: Night) -> dict[str, Any]:
    """What is kept of a soak, as JSON."""
    grown = slopes(night.samples, night.minutes)
    return {
        "minutes": round(night.minutes, 1),
        "seed": night.seed,
        "rounds": night.rounds,
        "batches": night.tally.batches,
        "slides": night.tally.slides,
        "stat_slides": night.tally.stat,
        "ends": dict(sorted(night.tally.ends.items())),
        "good_slides_given_up_after_three_kills": night.tally.innocent,
        "wounds": dict(sorted(night.tally.wounds.items())),
        "faults": night.tally.faults,
        "errors_in_logs": dict(night.errors.most_common(50)),
        "memory": {role: _rounded(slope) for role, slope in grown.items()},
    }


def _rounded(slope: Slope | None) -> dict[str, float] | None:
    return None if slope is None else {name: round(value, 3) for name, value in asdict(slope).items()}


async def soak(folder: Path, minutes: float, seed: int, output: Path, *, calm: bool = False) -> Night:
    """A night in `folder`; `output` is written after each round, so that one that is broken off says something, too.

    `calm`: nothing is wounded, nothing hangs or dies, and many clients come at once: what a service remembers of the
    last batches is full after minutes, and only what it would never let go still grows.
    """

    def keep(night: Night) -> None:
        output.write_text(json.dumps(result(night), indent=1) + "\n")

    async with running(folder) as stack:
        night = Night(stack, folder, seed, lambda line: print(line, flush=True), keep)
        if calm:
            night.round_s, night.clients, night.pause_s = 6.0, (10, 14), None
            night.known = [specimen for specimen in night.known if specimen.good or not specimen.behaviour]
        await night.run(minutes)
    return night


def main() -> int:
    """Exit code 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--output", type=Path, help="benchmarks/results/soak.json by default")
    parser.add_argument("--calm", action="store_true", help="many batches and no wounds, to soak_calm.json: its memory")
    parser.add_argument("--folder", type=Path, help="where the stack keeps its data; a new temporary folder by default")
    arguments = parser.parse_args()
    name = "soak_calm.json" if arguments.calm else "soak.json"
    output: Path = arguments.output or Path("benchmarks/results") / name
    output.parent.mkdir(parents=True, exist_ok=True)
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as temporary:
        folder = arguments.folder or Path(temporary)
        night = asyncio.run(soak(folder, arguments.minutes, arguments.seed, output, calm=arguments.calm))
    picture.draw(night.samples, output.with_suffix(".svg"))
    print(f"{len(night.tally.faults)} faults; written to {output}", flush=True)
    return 1 if night.tally.faults else 0


if __name__ == "__main__":
    sys.exit(main())
