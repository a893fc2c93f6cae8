"""Memory of every process of a soak: sampled, and its slope with a confidence interval.

Counted is what a process has for itself: the pages of files that it mapped come and go with the needs of others.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from numpy.typing import NDArray
from redis.exceptions import RedisError
from scipy import stats

from tests.soak.stack import Stack

SAMPLE_S = 5.0
BIN_S = 60.0
MOST_ALIKE = 0.95


@dataclass(frozen=True, slots=True)
class Sample:
    """Anonymous and shared MiB of one life of a process, `t_s` seconds after the start of the soak."""

    t_s: float
    role: str
    life: str
    mib: float


@dataclass(frozen=True, slots=True)
class Slope:
    """Growth in MiB an hour with the ends of its 95 % confidence interval, from `lives` lives and `minutes` minutes."""

    mib_per_h: float
    low: float
    high: float
    lives: int
    minutes: int
    mean_mib: float


async def watch(stack: Stack, into: list[Sample], start_s: float) -> None:
    """Samples all processes until it is cancelled."""
    while True:
        now = time.monotonic() - start_s
        for role, process in stack.processes():
            try:
                mib = own_mib(process.pid)
                witness = ", witness" if process.pid in stack.witnesses.values() else ""
                life = f"{process.pid}@{process.create_time():.0f}{witness}"
            except (psutil.Error, OSError):
                continue
            into.append(Sample(now, role, life, mib))
        with suppress(RedisError):
            data = (await stack.redis.info("memory"))["used_memory"] / 2**20
            into.append(Sample(now, "redis data", "all", data))
        await asyncio.sleep(SAMPLE_S)


def own_mib(pid: int) -> float:
    """MiB in memory that belong to no file; raises OSError when the process has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssShmem:"))) / 1024


def slope(samples: Iterable[Sample], *, warm_up_s: float, shortest_s: float) -> Slope | None:
    """The common slope of all lives by least squares, each life with a level of its own; None without enough of them.

    The first `warm_up_s` of each life are left out, then lives shorter than `shortest_s`. Means of a minute are
    fitted, as samples that follow closely upon each other say little new. As far as minutes still resemble those before
    them, the interval is wider (residuals of first-order autocorrelation).
    """
    lives: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        lives[sample.life].append(sample)
    t_parts, y_parts, levels = [], [], []
    for life in lives.values():
        kept = [sample for sample in life if sample.t_s >= life[0].t_s + warm_up_s]
        if not kept or kept[-1].t_s - kept[0].t_s < shortest_s:
            continue
        bins: dict[int, list[float]] = defaultdict(list)
        for sample in kept:
            bins[int(sample.t_s // BIN_S)].append(sample.mib)
        hours = np.array(sorted(bins)) * BIN_S / 3600
        means = np.array([np.mean(bins[number]) for number in sorted(bins)])
        t_parts.append(hours - hours.mean())
        y_parts.append(means - means.mean())
        levels.append(float(means.mean()))
    if not t_parts:
        return None
    t, y = np.concatenate(t_parts), np.concatenate(y_parts)
    freedom = len(t) - len(t_parts) - 1
    if freedom < 3:
        return None
    best = float(t @ y / (t @ t))
    left = y - best * t
    error = float(np.sqrt((left @ left) / freedom / (t @ t)))
    wide = float(stats.t.ppf(0.975, freedom)) * error * _dependence(left)
    return Slope(best, best - wide, best + wide, len(t_parts), len(t), float(np.mean(levels)))


def _dependence(left: NDArray[np.float64]) -> float:
    """How much wider an interval is when each residual resembles the one before; 1 when they are independent."""
    square = float(left @ left)
    likeness = float(left[1:] @ left[:-1]) / square if square > 0 else 0.0
    likeness = min(max(likeness, 0.0), MOST_ALIKE)
    return float(np.sqrt((1 + likeness) / (1 - likeness)))


def slopes(samples: Sequence[Sample], minutes: float) -> Mapping[str, Slope | None]:
    """The slope of each role over all lives of minutes, and of the witnesses alone, which live as long as the soak.

    Their second half leaves out what fills at first. What is remembered of the last batches fills for 450 of them.
    """
    warm_up_s, shortest_s = min(60.0, minutes * 6), min(120.0, minutes * 6)
    found: dict[str, Slope | None] = {}
    for role in sorted({sample.role for sample in samples}):
        mine = [sample for sample in samples if sample.role == role]
        found[role] = slope(mine, warm_up_s=warm_up_s, shortest_s=shortest_s)
        if alone := [sample for sample in mine if sample.life.endswith("witness")]:
            found[f"{role} (witness)"] = slope(alone, warm_up_s=10 * warm_up_s, shortest_s=shortest_s)
            late = [sample for sample in alone if sample.t_s >= minutes * 30]
            found[f"{role} (witness, second half)"] = slope(late, warm_up_s=0.0, shortest_s=shortest_s)
    return found
