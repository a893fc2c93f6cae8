"""gramserve's worker beside the peers: one uint8 tile a request, over gRPC, from one and from several callers.

The servers take turns in rounds. Each is started for its turn and ended after it, so that no idle server takes part of
a core from another; the order moves on by one with every round.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers import environments
from benchmarks.peers.catalogue import BARE, PEERS
from benchmarks.peers.client.driver import Load
from benchmarks.peers.servers import Server, serving
from benchmarks.peers.session import MODEL
from benchmarks.report import spread
from benchmarks.stack import running

OURS = "gramserve"
"""The worker with the engine of the peers."""
CHOSEN = "gramserve, engine chosen"
"""The worker as it comes, with the engine that it finds fastest among those of the artifact."""
ENGINES = {OURS: "onnxruntime", CHOSEN: "auto"}
CALLERS = (1, 4)
READY_S = 90.0
# Another engine's roundings move a logit a little; another model or another picture moves it a lot.
LOGITS_TOLERANCE = 0.1

Start = Callable[[], AbstractContextManager[Server]]


@contextlib.contextmanager
def gramserve(data_dir: Path, engine: str) -> Iterator[Server]:
    """The stack on `data_dir`, whose worker serves the Open Inference Protocol on its own address."""
    with running(data_dir, "--no-optimizer", variables={"GRAMSERVE_WORKER_ENGINE": engine}) as stack:
        yield Server(stack.addresses["worker-1"], stack.process)


def measure(
    data_dir: Path,
    model: Path,
    *,
    edge: int,
    cores: int,
    rounds: int,
    seconds: float,
    wanted: Collection[str] = (),
) -> dict[str, Any]:
    """Figures of all servers that are set up, or of those `wanted`. `data_dir` has `model` in production as MODEL.

    `peers`: by name and number of callers images/s, p50 and p99 in ms, CPU in ms per image and MiB; `left_out`: by name
    why; `over_best_peer`, `over_bare`: gramserve's images/s over those, round by round.
    """
    starts: dict[str, Start] = {}
    for name, engine in ENGINES.items():
        starts[name] = lambda engine=engine: gramserve(data_dir, engine)  # type: ignore[misc]
    left_out: dict[str, str] = {}
    versions: dict[str, str] = {}
    for peer in PEERS:
        if wanted and peer.folder not in wanted:
            continue
        if environments.is_ready(peer.folder):
            starts[peer.folder] = lambda peer=peer: serving(peer, model, edge, cores)  # type: ignore[misc]
            versions[peer.folder] = environments.version(peer.folder, peer.package)
        else:
            left_out[peer.folder] = "not set up"
    if not environments.is_ready(environments.CLIENT):
        return {"left_out": dict.fromkeys([*starts, *left_out], "the client is not set up")}
    taken: dict[str, dict[int, list[dict[str, float]]]] = defaultdict(lambda: {count: [] for count in CALLERS})
    logits: dict[str, list[float]] = {}
    with Load(edge) as load:
        for number in range(rounds):
            names = [name for name in starts if name not in left_out]
            turn = number % max(len(names), 1)
            for name in names[turn:] + names[:turn]:
                with starts[name]() as server:
                    error = load.wait(server.target, MODEL, READY_S)
                    if error:
                        left_out[name] = error
                        continue
                    for count in CALLERS:
                        figures = _turn(load, server, count, seconds)
                        logits[name] = figures.pop("logits")
                        taken[name][count].append(figures)
    _check_same(logits)
    return {
        "callers": list(CALLERS),
        "seconds": seconds,
        "rounds": rounds,
        "versions": versions,
        "left_out": left_out,
        "peers": {name: {str(n): _spreads(t) for n, t in by.items() if t} for name, by in taken.items()},
        **_ratios({name: by for name, by in taken.items() if name not in left_out}),
    }


def _turn(load: Load, server: Server, callers: int, seconds: float) -> dict[str, Any]:
    """A short run to warm up, then the measured one."""
    load.drive(server.target, MODEL, callers, min(1.0, seconds / 4))
    before = server.usage()
    figures = load.drive(server.target, MODEL, callers, seconds)
    after = server.usage()
    return {
        "images_per_s": figures["images_per_s"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
        "cpu_ms_per_image": 1000 * (after.cpu_s - before.cpu_s) / figures["images"],
        "memory_mib": after.rss_mib,
        "logits": figures["logits"],
    }


def _check_same(logits: dict[str, list[float]]) -> None:
    """Servers that answer the same tile differently do not serve the same model."""
    for name, values in logits.items():
        reference = next(iter(logits.values()))
        apart = LOGITS_TOLERANCE * np.abs(reference).max()
        if len(values) != len(reference) or np.abs(np.subtract(values, reference)).max() > apart:
            raise RuntimeError(f"{name} gives other logits than {next(iter(logits))}")


def _spreads(turns: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {key: spread([turn[key] for turn in turns]) for key in turns[0]}


def _ratios(taken: dict[str, dict[int, list[dict[str, float]]]]) -> dict[str, Any]:
    """How many times as fast gramserve is as the best peer of the same round, and as the bare server."""
    rates = {name: {n: [turn["images_per_s"] for turn in t] for n, t in by.items()} for name, by in taken.items()}
    rivals = {
        "over_best_peer": [name for name in rates if name not in {*ENGINES, BARE}],
        "over_bare": [name for name in rates if name == BARE],
    }
    return {
        ratio: {ours: _over(rates[ours], [rates[name] for name in names]) for ours in ENGINES if ours in rates}
        for ratio, names in rivals.items()
        if names
    }


def _over(ours: dict[int, list[float]], others: list[dict[int, list[float]]]) -> dict[str, dict[str, float]]:
    """By number of callers: our rate over the best of the others in the same round."""
    return {
        str(count): spread([rate / max(other[count][turn] for other in others) for turn, rate in enumerate(rates)])
        for count, rates in ours.items()
    }
