"""What the queue says: leases, completions, counts and events, as plain frozen data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class RenewStatus(StrEnum):
    """The answer to a renewal, the worst first: LOST, CANCEL, DRAIN, OK. All but LOST extend the lease."""

    OK = "OK"
    LOST = "LOST"  # somebody else owns the slide now: throw the work away, write nothing
    CANCEL = "CANCEL"  # the batch is stopping: the slide may still finish, it will not be run again
    DRAIN = "DRAIN"  # this worker was asked to finish what it has and lease nothing more


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's time-limited right to run one slide.

    `batch` and `index` (from 0) name the slide, `round` the pass over the batch (0, then 1 for the first retry).
    `token` fences it: every later transition must carry it. `attempts` errors and `crashes` lost leases lie behind
    it, not counting this delivery. `alone` asks the worker to run nothing
    beside it. `version` and `digest` name the frozen model. `queued_s` runs from acceptance of the batch to this
    lease, by the server's clock; `expires_s` is the length of the lease, to be counted from *before* the call. `stat`
    says that the batch is STAT.
    """

    batch: str
    index: int
    round: int
    token: str
    attempts: int
    crashes: int
    alone: bool
    version: str
    digest: str
    queued_s: float
    expires_s: float
    stat: bool = False

    @property
    def granted_s(self) -> float:
        """When it was granted, unix seconds by the server's clock."""
        return int(self.token.partition("-")[0]) / 1_000_000

    @property
    def entry(self) -> str:
        """The slide's name in the queue."""
        return f"{self.batch}/{self.index:06d}"


class Settled(Protocol):
    """How many slides of a batch have already ended, when its queue is opened; any record of counts fits."""

    @property
    def succeeded(self) -> int: ...  # noqa: D102
    @property
    def failed(self) -> int: ...  # noqa: D102
    @property
    def cancelled(self) -> int: ...  # noqa: D102
    @property
    def expired(self) -> int: ...  # noqa: D102
    @property
    def review(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Done:
    """The plainest `Settled`: slides that have already ended, by how they ended."""

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    expired: int = 0
    review: int = 0


@dataclass(frozen=True, slots=True)
class Settlement:
    """One slide's end: its lease, "SUCCEEDED" or "FAILED", and whether a person must look at the call."""

    lease: Lease
    state: str
    review: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """The answer to a completion: `accepted` is False for a stale token; `remaining` slides of the batch still live."""

    accepted: bool
    remaining: int


@dataclass(frozen=True, slots=True)
class Reclaimed:
    """What a sweep found: slides put back, and those that crashed too often.

    The sweeper holds a fresh lease on each of `condemned` (`crashes` includes the last one): it writes the failed
    outcome to the store, then completes it. If it dies first, a later sweep condemns the slide again.
    """

    requeued: int
    condemned: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One batch as the queue sees it; `queued + running + succeeded + failed + cancelled + expired == total`, always.

    `submitted`: every slide of this round was handed over; while False somebody must still call `submit`. `live`
    slides are in ready, leased or delayed. `stopping` is "" or the state ("CANCELLED", "EXPIRED") that waiting slides
    get; `finished` is "" or the batch's terminal state. Times are unix seconds by the server's clock. `done_rate` is
    slides ended per second from the first start to the last end of this round, 0 when unknown.
    """

    round: int
    total: int
    queued: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    expired: int
    review: int
    live: int
    submitted: bool
    stopping: str
    finished: str
    first_start_s: float | None
    last_end_s: float | None
    last_sequence: int
    version: str
    digest: str
    done_rate: float


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a slide (`index` >= 0) or of the batch (`index` -1) to `state`, at `time_s` (unix seconds).

    `sequence` rises within the batch, with gaps only where a lost queue was rebuilt. `attempts` counts the deliveries
    of the slide that were charged so far, the current one included.
    """

    sequence: int
    index: int
    state: str
    attempts: int
    time_s: float


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits and runs in the lane, and how long the next slide of either class has waited; 0 where none waits."""

    ready_stat: int
    ready_routine: int
    leased: int
    delayed: int
    oldest_stat_s: float
    oldest_routine_s: float

    @property
    def oldest_ready_s(self) -> float:
        """The longer of the two."""
        return max(self.oldest_stat_s, self.oldest_routine_s)


@dataclass(frozen=True, slots=True)
class Server:
    """The Redis behind the queue: which run of the process, up for how long, and its clock (unix seconds)."""

    run_id: str
    uptime_s: float
    time_s: float
