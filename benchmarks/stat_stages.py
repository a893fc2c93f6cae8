"""Where the time of a ClassifySlide goes: the moments that the call leaves behind, in order, on one machine's clock."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from gramserve.queue import Queue
from gramserve.v1.slide_pb2 import Slide

STAGES = (
    "on its way, checked",
    "durably accepted",
    "queued, leased by a worker",
    "run in a child",
    "durable, completed",
    "heard of, told",
)
"""What lies between two moments after another; docs/benchmarks.md says more."""

_HALF_MS = 0.0005
"""Redis notes whole milliseconds: on average an event came so much later, in seconds."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a client: seconds since the epoch before and after it, and the slide that it gave."""

    asked_s: float
    told_s: float
    slide: Slide

    @property
    def ms(self) -> float:
        """How long it took, milliseconds."""
        return 1000 * (self.told_s - self.asked_s)


async def stages_of(queue: Queue, call: Call, created_s: float) -> list[float]:
    """Milliseconds of each of STAGES; `created_s` is the `create_time` of the slide's batch.

    Raises RuntimeError when Redis has no events of it any more.
    """
    _, laboratory, _, batch, _, _ = call.slide.name.split("/")
    events = await queue.events(f"{laboratory}/{batch}", 0)
    times = {(event.index, event.state): event.time_s + _HALF_MS for event in events}
    try:
        queued, leased, completed = (times[key] for key in ((-1, "QUEUED"), (0, "RUNNING"), (0, "SUCCEEDED")))
    except KeyError:
        raise RuntimeError("the events of the slide are gone") from None
    called_s = call.slide.update_time.ToMicroseconds() / 1e6
    moments = (call.asked_s, created_s, queued, leased, called_s, completed, call.told_s)
    return [1000 * (later - earlier) for earlier, later in itertools.pairwise(moments)]


def medians(calls: Sequence[Sequence[float]]) -> dict[str, float]:
    """The median of each stage over the calls, milliseconds."""
    together = zip(*calls, strict=True)
    return {stage: round(statistics.median(times), 2) for stage, times in zip(STAGES, together, strict=True)}
