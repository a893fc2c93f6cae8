"""Which engine serves an artifact on this CPU: of those that its manifest allows, the fastest that computes right.

The manifest's order was measured where the artifact was made; the order of two engines differs from CPU to CPU.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import ArtifactInvalid, Reason, SlideFailed
from gramserve.runtime.engines import Engine, first_installed, installed_engines, open_engine
from gramserve.store.manifest import EngineSettings

AUTO = "auto"
BUDGET_S = 1.0
WORTH_IT = 0.95
"""An alternative takes at most this part of the first choice's time, or it is not worth to differ from the manifest."""

_FEWEST_ROUNDS, _MOST_ROUNDS = 3, 15


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine that serves, and for a log: seconds a tile of those measured, and why others were passed over."""

    settings: EngineSettings
    engine: Engine
    tile_s: dict[str, float]
    passed_over: dict[str, str]


class EngineChooser:
    """Opens the engine of an artifact; for one process, which remembers what it measured by artifact digest.

    `only` is "auto" or the name of the one engine that may serve. `clock` is in seconds.
    """

    def __init__(
        self,
        only: str = AUTO,
        *,
        budget_s: float = BUDGET_S,
        clock: Callable[[], float] = time.perf_counter,
        opened: Callable[[bytes, EngineSettings], Engine] = open_engine,
    ) -> None:
        self._only = only
        self._budget_s = budget_s
        self._clock = clock
        self._open = opened
        self._known: dict[str, EngineSettings] = {}

    def choose(
        self,
        digest: str,
        model: bytes,
        choices: Sequence[EngineSettings],
        check: Callable[[Engine, EngineSettings], NDArray[np.uint8]],
    ) -> Choice:
        """The engine for the artifact `digest`, opened, checked and measured; one alone is not measured.

        `check` raises ArtifactInvalid or SlideFailed where an engine does not give the golden vectors, else it returns
        tiles to measure with, uint8 [N, S, S, 3]. Raises what the first choice raises when none can serve;
        ArtifactInvalid MODEL_UNAVAILABLE when none is installed.
        """
        allowed = self._allowed(digest, choices)
        ready: list[tuple[EngineSettings, Engine]] = []
        passed_over: dict[str, str] = {}
        first_error: Exception | None = None
        tiles: NDArray[np.uint8] | None = None
        for settings in allowed:
            try:
                engine = self._open(model, settings)
                tiles = check(engine, settings)
            except (ArtifactInvalid, SlideFailed, MemoryError) as error:
                first_error = first_error or error
                passed_over[settings.name] = str(getattr(error, "reason", type(error).__name__))
            else:
                ready.append((settings, engine))
        if first_error is not None and not ready:
            raise first_error
        tile_s = self._measure(ready, tiles) if len(ready) > 1 and tiles is not None else []
        best = _best(tile_s)
        names = [engine.description for _, engine in ready]
        passed_over |= dict.fromkeys(names[:best] + names[best + 1 :], "slower")
        self._known[digest] = ready[best][0]
        return Choice(*ready[best], dict(zip(names, tile_s, strict=False)), passed_over)

    def _allowed(self, digest: str, choices: Sequence[EngineSettings]) -> list[EngineSettings]:
        known = self._known.get(digest)
        if known is not None:
            return [known]
        wanted = [choice for choice in choices if self._only in {AUTO, choice.name}]
        if not wanted:
            raise ArtifactInvalid(
                Reason.MODEL_UNAVAILABLE,
                f"This worker runs {self._only} only, and the artifact was not made for it.",
                metadata={"engine": self._only},
            )
        first_installed(wanted)
        installed = installed_engines()
        return [choice for choice in wanted if choice.name in installed]

    def _measure(self, ready: Sequence[tuple[EngineSettings, Engine]], tiles: NDArray[np.uint8]) -> list[float]:
        """Seconds a tile, in full batches and alone alike; in turns, so that a busy CPU slows all of them down."""
        seen: list[list[float]] = [[] for _ in ready]
        began = self._clock()
        for turn in range(_MOST_ROUNDS):
            for (settings, engine), times in zip(ready, seen, strict=True):
                batch = np.resize(tiles, (settings.batch_tiles, *tiles.shape[1:]))
                start = self._clock()
                engine.run(batch)
                middle = self._clock()
                engine.run(batch[:1])
                times.append(((middle - start) / len(batch) + self._clock() - middle) / 2)
            if turn + 1 >= _FEWEST_ROUNDS and self._clock() - began >= self._budget_s:
                break
        return [statistics.median(times) for times in seen]


def _best(tile_s: Sequence[float]) -> int:
    """The fastest of those measured, or the first when none is worth to differ."""
    fastest = min(range(len(tile_s)), key=tile_s.__getitem__, default=0)
    return fastest if fastest and tile_s[fastest] <= WORTH_IT * tile_s[0] else 0
