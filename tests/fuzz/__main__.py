"""`make fuzz SECONDS=600`: every target for so long, two at a time, at low priority; findings end with exit code 1."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz.catalogue import CORPUS, TARGETS

TOGETHER = 2
MEMORY_MIB = 1024
BEGIN_S = 120.0
"""What starting and stopping a target may take, beside the time in which it runs."""


@dataclass(slots=True)
class Result:
    """Of one target: inputs run, seconds, and the files with the inputs that were findings."""

    runs: int = 0
    seconds: float = 0.0
    findings: tuple[str, ...] = ()


def fuzz(name: str, folder: Path, seconds: float, slow_s: int) -> Result:
    """Runs a target in processes of its own, again after each finding, until its time is over."""
    here = folder / name
    grown, begun = here / "corpus", here / "seeds"
    for path in (grown, begun):
        path.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(TARGETS[name].seeds()):
        (begun / f"{number:03d}").write_bytes(data)
    result = Result()
    while (left := seconds - result.seconds) >= 1:
        start = time.monotonic()
        words = [
            *(f"-max_total_time={left:.0f}", f"-timeout={slow_s}", f"-rss_limit_mb={MEMORY_MIB}", "-len_control=10"),
            *(f"-max_len={TARGETS[name].max_bytes}", "-print_final_stats=1", f"-artifact_prefix={here}/"),
            *(str(grown), str(begun), *([str(CORPUS / name)] if (CORPUS / name).is_dir() else [])),
        ]
        with (here / "log").open("ab") as log:
            log.write(f"\n=== {left:.0f} s\n".encode())
            log.flush()
            at = log.tell()
            subprocess.run(
                [sys.executable, "-m", "tests.fuzz.run", name, *words],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=lambda: os.nice(10),
                check=False,
                timeout=left + BEGIN_S,
            )
        with (here / "log").open("rb") as log:
            log.seek(at)
            said = log.read().decode(errors="replace")
        runs = re.findall(r"stat::number_of_executed_units: (\d+)", said) or re.findall(r"^#(\d+)", said, re.MULTILINE)
        result.runs += int(runs[-1]) if runs else 0
        result.seconds += time.monotonic() - start
    kinds = ("crash-*", "timeout-*", "oom-*")
    result.findings = tuple(sorted(path.name for kind in kinds for path in here.glob(kind)))
    return result


def main(words: Sequence[str] | None = None) -> int:
    """Exit code 0 when nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=float, default=600.0, help="for each target")
    parser.add_argument("--slow-s", type=int, default=5, help="an input that takes longer is a finding, seconds")
    parser.add_argument("--folder", type=Path, default=Path("fuzz"), help="where what was found and grown is kept")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/fuzz.json"))
    arguments = parser.parse_args(words)
    names = arguments.targets or list(TARGETS)
    results: dict[str, Result] = {}
    folder: Path = arguments.folder.absolute()
    with ThreadPoolExecutor(TOGETHER) as pool:
        waiting = {name: pool.submit(fuzz, name, folder, arguments.seconds, arguments.slow_s) for name in names}
        for name, running in waiting.items():
            results[name] = found = running.result()
            print(f"{name:<20}{found.runs:>12} runs {found.seconds:>6.0f} s  {', '.join(found.findings)}", flush=True)
            arguments.output.parent.mkdir(parents=True, exist_ok=True)
            arguments.output.write_text(json.dumps({key: asdict(one) for key, one in results.items()}, indent=1) + "\n")
    return 1 if any(result.findings for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
