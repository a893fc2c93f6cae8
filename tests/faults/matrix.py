"""The fault matrix: what was injected and what became of the slides.

Tests record rows through the fixture `fault`. `python -m tests.faults.matrix` makes of them
benchmarks/results/faults.json and docs/faults.md.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Iterable
from typing import Any

from tests.faults.checker import Found, inspect
from tests.faults.harness import Site
from tests.sources import ROOT
from tests.waiting import HANGS_S

RESULTS = ROOT / "tests/faults/results.json"
PUBLISHED = ROOT / "benchmarks/results/faults.json"
COUNTED = ("injected", "accepted", "lost", "duplicated", "refused")
PAGE = ROOT / "docs/faults.md"


class Fault:
    """One row: name it, count what is injected, and have the end checked."""

    def __init__(self, test: str, seed: int) -> None:
        self.test = test
        self.seed = seed
        self.name = ""
        self.injected = 0
        self.handover_s: list[float] = []
        self._since_s = 0.0

    def __call__(self, name: str, *, invariants: str = "", injected: int = 0) -> Fault:
        """Names the fault, "worker, kill -9: before a slide starts"; `invariants` are those that it tries to break."""
        self.name, self.invariants, self.injected = name, invariants, injected
        return self

    def inject(self, times: int = 1) -> None:
        """It happened now; the time to hand over runs from here."""
        self.injected += times
        self._since_s = time.monotonic()

    def handed_over(self) -> float:
        """Somebody else goes on with the work now; seconds since `inject`."""
        self.handover_s.append(time.monotonic() - self._since_s)
        return self.handover_s[-1]

    async def proved(self, site: Site, *, gapless: bool = True, timeout_s: float = HANGS_S) -> Found:
        """Waits for all batches to end, checks everything, keeps the row; fails the test for what is broken."""
        assert self.name, "call fault(name) first"
        assert self.injected, "a fault that was never injected proves nothing"
        await site.ended(timeout_s=timeout_s)
        found = await inspect(site, gapless=gapless)
        self.keep(found)
        found.held()
        return found

    def keep(self, found: Found) -> None:
        """Keeps the row."""
        row = {
            "fault": self.name,
            "invariants": self.invariants,
            "test": self.test,
            "seed": self.seed,
            "injected": self.injected,
            "accepted": found.accepted,
            "lost": found.lost,
            "duplicated": found.duplicated,
            "refused": found.refused,
            "ended": dict(found.ended),
            "handover_s": [round(seconds, 3) for seconds in self.handover_s],
            "broken": found.broken,
        }
        with RESULTS.open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            rows = [old for old in json.loads(file.read() or "[]") if old["test"] != self.test]
            file.truncate(0)
            json.dump([*rows, row], file, indent=1)


def merged(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one fault (parametrized tests) as one, sorted by name."""
    by_name: dict[str, dict[str, Any]] = {}
    for row in rows:
        old = by_name.setdefault(
            row["fault"],
            {"fault": row["fault"], "invariants": row["invariants"], "tests": [], "ended": {}, "handover_s": []}
            | dict.fromkeys(COUNTED, 0),
        )
        for name in COUNTED:
            old[name] += row[name]
        for state, count in row["ended"].items():
            old["ended"][state] = old["ended"].get(state, 0) + count
        old["handover_s"] += row["handover_s"]
        old["tests"].append(row["test"])
    return [by_name[name] for name in sorted(by_name)]


def page(rows: list[dict[str, Any]]) -> str:
    """docs/faults.md."""
    totals = {name: sum(row[name] for row in rows) for name in COUNTED}
    lines = [TEXT, "| fault | tries to break | injected | slides accepted | lost | duplicated | refused | hand-over |"]
    lines.append("|---|---|--:|--:|--:|--:|--:|--:|")
    for row in rows:
        times = sorted(row["handover_s"])
        handover = f"{times[len(times) // 2]:.1f} s" if times else ""
        if len(times) > 1:
            handover += f", at most {times[-1]:.1f} s"
        cells = [row["fault"], row["invariants"]]
        cells += [str(row[name]) for name in COUNTED]
        lines.append(f"| {' | '.join([*cells, handover])} |")
    cells = [f"**{totals[name]}**" for name in COUNTED]
    lines.append(f"| **all** | | {' | '.join(cells)} | |")
    return "\n".join(lines) + "\n"


TEXT = """\
# Faults

<!-- Written by `make faults` (tests/faults/matrix.py) from what its tests saw: change it there. -->

`make faults` breaks everything that can break, with real redis-servers, gateways, workers and optimizers as processes.
After each fault a checker reads the store, Redis and the event log. It holds that every accepted slide has exactly one
outcome, that counts, output files and events say the same, that no event is missing or there twice, and that Redis
keeps nothing of a slide that has ended (I1, I2, I8, I9, see [architecture.md](architecture.md)). A short form is part
of `make test`. `FAULT_SEED=n` repeats a run with the seed that it printed.

*Refused* are second results and calls under a lease that was lost, which the queue refuses and counts. *Hand-over* is
the time from the fault until somebody else runs the slide, or serves again: the median and the longest.
Leases are short here (0.6 to 2 s, in production 30 s): a hand-over after `kill -9` takes a lease and a sweep.

"""


def main() -> int:
    """Write the published results and the page."""
    rows = merged(json.loads(RESULTS.read_text()))
    PUBLISHED.write_text(json.dumps(rows, indent=1) + "\n")
    PAGE.write_text(page(rows))
    return 1 if any(row["lost"] or row["duplicated"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
