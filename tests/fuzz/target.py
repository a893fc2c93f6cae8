"""What a fuzzer runs: bytes in, and either nothing happens or a typed error is raised."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

Run = Callable[[bytes], None]


class Finding(AssertionError):
    """A service answered with INTERNAL: some exception was none of ours."""


@dataclass(frozen=True, slots=True)
class Target:
    """`opened` gives what takes one input; whatever that raises is a finding. `seeds` are good inputs to begin with.

    An input has at most `max_bytes` bytes.
    """

    opened: Callable[[], AbstractContextManager[Run]]
    seeds: Callable[[], Iterable[bytes]]
    max_bytes: int = 65_536
