"""What is known of a night: plain counts and lists, all of them read from the store."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from gramserve.night.window import Night
from gramserve.store.records import ImageRecord, Priority, SlideState

ENDS = (SlideState.SUCCEEDED, SlideState.FAILED, SlideState.EXPIRED, SlideState.CANCELLED)


@dataclass(frozen=True, slots=True)
class Place:
    """A slide by laboratory, batch and index from 0; `slide_id` is what the laboratory calls it."""

    laboratory: str
    batch: str
    index: int
    slide_id: str


@dataclass(slots=True)
class Failures:
    """Slides that failed for one reason; `first` and `message` are of the one that failed first, at `time`."""

    reason: str
    count: int = 0
    time: float = float("inf")
    message: str = ""
    first: Place | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """A slide that a person must look at; `call` is Call.to_json."""

    place: Place
    priority: Priority
    call: dict[str, Any]
    images: tuple[ImageRecord, ...]


@dataclass(slots=True)
class ModelUse:
    """What one model version said: slides it called, those for review, outcomes and labels of findings."""

    version: str
    digest: str
    slides: int = 0
    review: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    engines: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Times:
    """Seconds of slides of one priority: `wait` until the first lease, `run` from then until the outcome was kept."""

    wait: array[float] = field(default_factory=lambda: array("d"))
    run: array[float] = field(default_factory=lambda: array("d"))


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """One batch: counts by state as its outcomes and its end say; Unix seconds, None for what has not happened."""

    laboratory: str
    batch: str
    priority: Priority
    model_version: str
    accepted: int
    states: Counter[SlideState]
    review: int
    create_time: float
    deliver_by: float | None
    end_time: float | None

    @property
    def open(self) -> int:
        """Slides that have no end yet."""
        return self.accepted - self.states.total()

    @property
    def late(self) -> bool:
        """Whether it ended after it was due."""
        return None not in {self.end_time, self.deliver_by} and (self.end_time or 0) > (self.deliver_by or 0)


@dataclass(slots=True)
class NightFacts:
    """All of one night, as of `made` (Unix seconds). `problems` are sentences: what in the store contradicts itself.

    `reviews` lists the first slides for review of each priority, `review` counts all.
    `ended` counts the slides by the quarter of an hour (its start, Unix seconds) in which they ended, and by state.
    `purged` slides were accepted, too, and deleted at the end of their retention: nothing else is known of them.
    `damaged` batches are in no sum, as their night cannot be read.
    """

    night: Night
    made: float
    batches: list[BatchFacts] = field(default_factory=list)
    states: Counter[SlideState] = field(default_factory=Counter)
    accepted: int = 0
    open: int = 0
    review: int = 0
    reused: int = 0
    late: int = 0
    purged: int = 0
    damaged: int = 0
    ended: dict[float, Counter[SlideState]] = field(default_factory=dict)
    times: dict[Priority, Times] = field(default_factory=lambda: {priority: Times() for priority in Priority})
    failures: dict[str, Failures] = field(default_factory=dict)
    reviews: dict[Priority, list[Review]] = field(default_factory=lambda: {priority: [] for priority in Priority})
    models: dict[tuple[str, str], ModelUse] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @property
    def adds_up(self) -> bool:
        """Whether accepted = succeeded + failed + expired + cancelled, with nothing in the store against it."""
        return self.accepted == sum(self.states[state] for state in ENDS) and not self.problems
