"""What each model version did by the Open Inference Protocol since the worker started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gramserve.oip import open_inference_pb2 as pb
from gramserve.store.registry import Resolved
from inference_svc.protocol import Inferred


@dataclass(slots=True)
class _Tally:
    """Counts and seconds of one version."""

    requests: int = 0
    tiles: int = 0
    total_s: float = 0.0
    input_s: float = 0.0
    infer_s: float = 0.0
    output_s: float = 0.0
    failed: int = 0
    failed_s: float = 0.0
    last_s: float = 0.0


class Statistics:
    """By the names that requests used; `wall` gives Unix seconds."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._tallies: dict[tuple[str, int], _Tally] = {}

    def succeeded(self, name: str, version: Resolved, done: Inferred, total_s: float) -> None:
        """A request was answered `total_s` seconds after its arrival."""
        tally = self._tally(name, version)
        tally.requests += 1
        tally.tiles += done.tiles
        tally.total_s += total_s
        tally.input_s += done.input_s
        tally.infer_s += done.infer_s
        tally.output_s += done.output_s
        tally.last_s = self._wall()

    def failed(self, name: str, version: Resolved, total_s: float) -> None:
        """A request failed `total_s` seconds after its arrival."""
        tally = self._tally(name, version)
        tally.failed += 1
        tally.failed_s += total_s

    def shown(self, name: str, version: int | None) -> list[pb.ModelStatistics]:
        """What is known of a version, of all versions of a model (None), or of all models ("")."""
        return [
            _shown(model, number, tally)
            for (model, number), tally in sorted(self._tallies.items())
            if name in {"", model} and version in {None, number}
        ]

    def _tally(self, name: str, version: Resolved) -> _Tally:
        key = (name, version.version)
        tally = self._tallies.get(key)
        if tally is None:
            tally = self._tallies[key] = _Tally()
        return tally


def _shown(model: str, version: int, tally: _Tally) -> pb.ModelStatistics:
    ran_s = tally.input_s + tally.infer_s + tally.output_s

    def duration(seconds: float, count: int = tally.requests) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=count, ns=max(0, round(seconds * 1e9)))

    return pb.ModelStatistics(
        name=model,
        version=str(version),
        last_inference=round(tally.last_s * 1000),
        inference_count=tally.tiles,
        execution_count=tally.requests,
        inference_stats=pb.InferStatistics(
            success=duration(tally.total_s),
            fail=duration(tally.failed_s, tally.failed),
            queue=duration(tally.total_s - ran_s),
            compute_input=duration(tally.input_s),
            compute_infer=duration(tally.infer_s),
            compute_output=duration(tally.output_s),
        ),
    )
