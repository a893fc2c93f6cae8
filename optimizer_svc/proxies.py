"""Cheap looks at candidates before they are validated: distance of their logits, and a quick stopwatch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.engines import open_engine
from gramserve.runtime.golden import run_in_batches
from optimizer_svc.candidates import FP32, Candidate, calibration_tiles
from optimizer_svc.environment import cpu
from optimizer_svc.ingest import Ingested
from optimizer_svc.latency import Latency, Run, measure
from optimizer_svc.pace import Pace
from optimizer_svc.quantization import logit_snr_db
from optimizer_svc.workspace import Kept, Workspace

PROXY_TILES = 48
PROXY_ROUNDS = 5
# Below this the answers have little to do with those of the network any more.
FLOOR_DB = 3.0
AS_FAST = 1.03


@dataclass(frozen=True, slots=True)
class Proxy:
    """A candidate's logits beside those of its network in fp32 (signal to noise, dB) and its speed in a few rounds."""

    candidate: Candidate
    snr_db: float
    latency: Latency


def look(
    fp32: Candidate, candidates: Sequence[Candidate], ingested: Ingested, workspace: Workspace, pace: Pace, seed: int
) -> list[Proxy]:
    """Looks at all candidates of one network; `fp32` is that network, unquantized. Tiles are of the training split."""
    if not candidates:
        return []
    key = {**ingested.identity, "cpu": cpu(), "fp32": fp32.key, "of": {c.name: c.key for c in candidates}}

    def make() -> Kept:
        tiles = calibration_tiles(ingested, PROXY_TILES)
        reference = _answers(fp32, tiles)
        facts: dict[str, Any] = {}
        runs: dict[str, Run] = {}
        for candidate in candidates:
            pace.check()
            logits = _answers(candidate, tiles)
            facts[candidate.name] = min(99.0, logit_snr_db(reference, logits))
            runs[candidate.name] = open_engine(candidate.model, candidate.engine).run
        batch = candidates[0].engine.batch_tiles
        measured = measure(
            runs,
            tiles,
            batch_tiles=batch,
            rounds=PROXY_ROUNDS,
            min_round_s=0.01,
            max_s=20.0,
            seed=seed,
            should_stop=pace.should_stop,
        )
        return Kept({name: [facts[name], m.median_s, m.low_s, m.high_s, m.rounds] for name, m in measured.items()}, {})

    found = workspace.once("proxy", key, make).facts
    return [Proxy(c, found[c.name][0], Latency(*found[c.name][1:])) for c in candidates]


def promote(proxies: Sequence[Proxy]) -> tuple[list[Proxy], dict[str, str]]:
    """Which of one network's candidates are worth a validation, and why the others (by name) are not.

    Out is what has lost its network's answers, and what another one on the same engine beats in both closeness and
    speed; fp32 always stays.
    """
    kept: list[Proxy] = []
    dropped: dict[str, str] = {}
    for proxy in proxies:
        candidate = proxy.candidate
        if candidate.recipe == FP32:
            kept.append(proxy)
            continue
        if not proxy.snr_db >= FLOOR_DB:
            dropped[candidate.name] = f"its logits are too far from those of fp32 ({proxy.snr_db:.0f} dB)"
            continue
        better = [other for other in proxies if _beats(other, proxy)]
        if better:
            best = max(better, key=lambda other: other.snr_db)
            dropped[candidate.name] = f"{best.candidate.recipe} is closer to fp32 and as fast"
        else:
            kept.append(proxy)
    return kept, dropped


def _beats(other: Proxy, one: Proxy) -> bool:
    """Same engine, clearly closer (or a tie that its name decides), and at least about as fast."""
    if other is one or other.candidate.recipe == FP32 or other.candidate.engine != one.candidate.engine:
        return False
    if other.latency.median_s > AS_FAST * one.latency.median_s:
        return False
    return (other.snr_db, other.candidate.name) > (one.snr_db, one.candidate.name)


def _answers(candidate: Candidate, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
    engine = open_engine(candidate.model, candidate.engine)
    return run_in_batches(engine, tiles, candidate.engine.batch_tiles)
