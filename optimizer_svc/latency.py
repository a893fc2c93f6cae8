"""Measured speed: every candidate as the worker runs it, in turns, with confidence intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from optimizer_svc.architecture import InputSpec
from optimizer_svc.export import Deployable
from optimizer_svc.spec import Stopped
from optimizer_svc.statistics import median_interval
from optimizer_svc.threads import torch_threads

MIN_ROUNDS, SETTLED_ROUNDS = 5, 8
Run = Callable[[NDArray[np.uint8]], object]


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds of one tile on one thread: median over rounds with its 95 % bootstrap interval."""

    median_s: float
    low_s: float
    high_s: float
    rounds: int

    @property
    def images_per_s(self) -> float:
        """Tiles a second at the median."""
        return 1 / self.median_s


def measure(
    runs: Mapping[str, Run],
    tiles: NDArray[np.uint8],
    *,
    batch_tiles: int | Mapping[str, int],
    rounds: int = 30,
    min_round_s: float = 0.02,
    max_s: float = 60.0,
    precision: float = 0.01,
    seed: int = 0,
    should_stop: Callable[[], bool] = lambda: False,
    timer: Callable[[], float] = time.perf_counter,
) -> dict[str, Latency]:
    """Times every one of `runs` on the same tiles (uint8 [N, S, S, 3]).

    Each is given as many tiles at once as serve: `batch_tiles` for all, or by the name of the run. One round times each
    run once, in random order: what else the machine does then falls on all alike. A round repeats a run until
    `min_round_s` is filled. The last round is number `rounds`, or the one from number 8 on after which every median is
    known to `precision` (half of its interval, as a share), or the one from number 5 on after which `max_s` is over.
    """
    random = np.random.default_rng(seed)
    sizes = batch_tiles if isinstance(batch_tiles, Mapping) else dict.fromkeys(runs, batch_tiles)
    batches = {name: np.ascontiguousarray(tiles[: sizes[name]]) for name in runs}
    started = timer()
    repeats: dict[str, int] = {}
    for name, run in runs.items():
        if should_stop():
            raise Stopped
        run(batches[name])  # warm-up: buffers, kernels, caches
        begin = timer()
        run(batches[name])
        repeats[name] = max(1, math.ceil(min_round_s / max(1e-6, timer() - begin)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for done in range(rounds):
        if done >= MIN_ROUNDS and timer() - started > max_s:
            break
        if done >= SETTLED_ROUNDS and not done % 2 and all(_known_to(values, precision) for values in times.values()):
            break
        for place in random.permutation(len(names)):
            if should_stop():
                raise Stopped
            name = names[place]
            batch = batches[name]
            begin = timer()
            for _ in range(repeats[name]):
                runs[name](batch)
            times[name].append((timer() - begin) / (repeats[name] * len(batch)))
    return {
        name: Latency(*median_interval(np.array(values), random), rounds=len(values)) for name, values in times.items()
    }


def _known_to(values: list[float], precision: float) -> bool:
    """Whether the interval of the median reaches no further than `precision`, as a share of it, to either side."""
    median, low, high = median_interval(np.array(values), np.random.default_rng(0), draws=200)
    return max(high - median, median - low) <= precision * median


def eager_run(model: nn.Module, spec: InputSpec) -> Run:
    """The checkpoint as it is without any of this: torch eager fp32 on one thread, from the same uint8 tiles."""
    deployable = Deployable(model, spec).eval()

    def run(tiles: NDArray[np.uint8]) -> object:
        with torch_threads(1), torch.inference_mode():
            return deployable(torch.from_numpy(tiles))

    return run
