"""How long the steps of something take."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Steps:
    """Adds up `seconds` by the name of a step; a step inside another one is not counted in that one, too."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = {}
        self._clock = clock
        self._inside_s = 0.0

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What is done inside is this step."""
        began_s, before_s = self._clock(), self._inside_s
        self._inside_s = 0.0
        try:
            yield
        finally:
            took_s = self._clock() - began_s
            self.seconds[name] = self.seconds.get(name, 0.0) + took_s - self._inside_s
            self._inside_s = before_s + took_s
