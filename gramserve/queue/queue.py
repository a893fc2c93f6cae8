"""One lane of the fenced queue: every transition of a slide between waiting, running and its end.

Each method that changes something is one Lua script in `scripts/`, atomic in Redis; time is the server's. The state
machine, the keys and what survives what are in docs/queue.md.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from redis.asyncio import Redis

from gramserve.errors import Reason, Unavailable
from gramserve.queue import safety
from gramserve.queue.connection import RETRY_AFTER_S, blocking_twin, translated
from gramserve.queue.script import Scripts
from gramserve.queue.snapshot import snapshot_of
from gramserve.queue.states import (
    Completion,
    Depth,
    Done,
    Event,
    Lease,
    Reclaimed,
    RenewStatus,
    Server,
    Settled,
    Settlement,
    Snapshot,
)

CHUNK = 250  # slides a script call: half a millisecond in which Redis serves nobody else, and little memory at once
SWEEP = 100  # leases a sweep takes back at most
LEASE_FIELDS = 11
MAX_INDEX = 999_999  # entries of a batch sort by their six digits
MAX_DUE_MS = 2**42 - 1  # the year 2109; from there on begins the score of ROUTINE
REPLY_GRACE_S = 2.0  # what a blocking read may take beyond the time it was asked to block
ENDS = frozenset({"SUCCEEDED", "FAILED"})


class Queue:
    """One lane ("slides", "optimizations"), shared by everybody who is connected to the same Redis.

    `redis` comes from `connect`: decoding, short timeouts, no retries. Leases last `lease_s` seconds and are to be
    renewed well before; a slide is condemned at its `max_crashes`-th crash. Every method raises
    `Unavailable(QUEUE_UNAVAILABLE)` when Redis cannot be reached, and then whether the transition happened is
    unknown: every one of them may simply be called again. Close with `aclose`, which leaves `redis` open.
    """

    def __init__(
        self,
        redis: Redis,
        lane: str,
        *,
        lease_s: float = 30.0,
        max_crashes: int = 3,
        new_instance: Callable[[], str] = lambda: secrets.token_hex(8),
    ) -> None:
        self.lane = lane
        self.lease_s = lease_s
        self.max_crashes = max_crashes
        self._redis = redis
        self._blocking = blocking_twin(redis)
        self._tag = f"{{gs:{lane}}}"
        self._scripts = Scripts(redis, self._tag)
        self._instance = new_instance()
        self._calls = itertools.count(1)
        self._unanswered: dict[str, int] = {}
        self._bell = "0-0"

    async def aclose(self) -> None:
        """Closes the connections that this queue made for its blocking reads."""
        await self._blocking.aclose()

    # Filling.

    async def open(
        self,
        batch: str,
        *,
        round: int,  # noqa: A002
        total: int,
        priority_stat: bool,
        due_s: float,
        version: str,
        digest: str,
        done: Settled | None = None,
        hard_due_s: float | None = None,
        accepted_s: float | None = None,
        fresh: bool = False,
    ) -> bool:
        """Makes a batch of `total` slides known, or moves it on to a later round; `submit` follows.

        `done` counts the slides that have already ended and will not be submitted. Times are unix seconds; nothing
        starts at or after `hard_due_s`. `accepted_s` is when the batch was accepted (default: now). `fresh` says that
        the batch was never opened before, so that its events start at 1. False when this or a later round is open
        already, or slides of an earlier round still live. Raises `Exhausted(QUEUE_FULL)`.
        """
        if not batch or any(character.isspace() for character in batch):
            raise ValueError("a batch key has no spaces and is not empty")
        if not 0 < total <= MAX_INDEX + 1:
            raise ValueError(f"a batch has 1 to {MAX_INDEX + 1} slides")
        ended = done or Done()
        opened = await self._scripts.run(
            "open",
            *(batch, round, total, ended.succeeded, ended.failed, ended.cancelled, ended.expired, ended.review),
            *(int(priority_stat), min(_ms(due_s), MAX_DUE_MS), _ms(hard_due_s or 0.0), version, digest),
            *(int(fresh), _ms(accepted_s or 0.0)),
        )
        return bool(opened)

    async def submit(self, batch: str, indices: Sequence[int], *, more: bool = False) -> int:
        """Queues the slides `indices` (ascending) of an open batch and returns how many were new.

        A repeat queues nothing. The last call of a round leaves `more` False: a batch drains only when all its slides
        were handed over. On a stopping batch they go straight to its stop state. Raises `Exhausted(QUEUE_FULL)`:
        what was queued before stays, call again later; `Unavailable` when Redis does not know the batch: open it.
        """
        if any(later <= earlier for earlier, later in itertools.pairwise(indices)) or min(indices, default=0) < 0:
            raise ValueError("indices are submitted in ascending order")
        queued = 0
        for start in range(0, max(len(indices), 1), CHUNK):
            last = not more and start + CHUNK >= len(indices)
            answer = int(await self._scripts.run("submit", batch, int(last), *indices[start : start + CHUNK]))
            if answer == -2:
                raise ValueError("an index is not below the batch's total")
            queued += self._known(answer)
        return queued

    # Working.

    async def lease(self, worker: str, n: int, *, idle: bool, stat_only: bool = False) -> list[Lease]:
        """Leases at most `n` slides, the best first: STAT, then due time, then order of submission.

        `idle` says that the worker runs nothing. Only then can it get a slide that runs alone, which comes by itself.
        A worker that drains gets nothing. `stat_only` leaves routine slides where they are.
        One call at a time per worker: when an answer is lost on the way, the next call of this object gives back,
        uncharged, what the lost one had leased.
        """
        call, lost = next(self._calls), self._unanswered.get(worker, "")
        self._unanswered.setdefault(worker, call)
        caller = (self._instance, call, lost)
        reply = await self._scripts.run("lease", worker, n, int(idle), _ms(self.lease_s), *caller, int(stat_only))
        self._unanswered.pop(worker, None)
        return self._leases(reply)

    async def renew(self, worker: str, leases: Sequence[Lease]) -> list[RenewStatus]:
        """Extends the leases to `lease_s` from now; one status for each, in their order."""
        if not leases:
            return []
        reply = await self._scripts.run("renew", worker, _ms(self.lease_s), *_named(leases))
        return [RenewStatus(status) for status in reply]

    async def complete(self, lease: Lease, worker: str, state: str, review: bool = False) -> Completion:
        """Ends a slide as "SUCCEEDED" or "FAILED"; its outcome must be durable in the store before."""
        return (await self.complete_many(worker, [Settlement(lease, state, review)]))[0]

    async def complete_many(self, worker: str, settlements: Sequence[Settlement]) -> list[Completion]:
        """`complete` for several slides in one round trip; each is accepted or refused by itself."""
        if any(settlement.state not in ENDS for settlement in settlements):
            raise ValueError(f"a slide ends as one of {sorted(ENDS)}")
        if not settlements:
            return []
        arguments: list[str | int] = []
        for settlement in settlements:
            lease = settlement.lease
            arguments += (lease.entry, lease.token, settlement.state, int(settlement.review))
        reply = await self._scripts.run("complete", worker, *arguments)
        return [Completion(bool(accepted), remaining) for accepted, remaining in _rows(reply, 2)]

    async def fail(self, lease: Lease, worker: str, *, crash: bool, delay_s: float) -> bool:
        """Puts a slide back for another try after `delay_s` (ten minutes at most), charged with an attempt or a crash.

        After a crash it runs alone. When its attempts are used up the caller ends it by `complete` instead. It can
        do so with its crashes too; should it not, the crash that is too many leaves the slide to be condemned by the
        next `reclaim`. False for a stale token.
        """
        charge = (int(crash), _ms(max(delay_s, 0.0)), self.max_crashes)
        return bool(await self._scripts.run("fail", worker, lease.entry, lease.token, *charge))

    async def release(self, leases: Sequence[Lease], worker: str) -> int:
        """Gives slides back at once and uncharged, those of an unanswered lease call too; returns how many.

        On a stopping batch they get its stop state.
        """
        lost = self._unanswered.get(worker, "")
        reply = await self._scripts.run("release", worker, self._instance, lost, *_named(leases))
        self._unanswered.pop(worker, None)
        return int(reply)

    # Stopping.

    async def cancel(self, batch: str) -> int:
        """Stops a batch: what waits becomes CANCELLED, what runs goes on. Returns how many slides ended by this call.

        The first stop of a batch decides. Safe to repeat after an error; 0 for an unknown batch or one
        whose slides have all ended.
        """
        return await self._stop(batch, "CANCELLED")

    async def expire(self, batch: str) -> int:
        """Like `cancel`, with EXPIRED, for a batch whose time is over."""
        return await self._stop(batch, "EXPIRED")

    async def finish(
        self,
        batch: str,
        state: str,
        *,
        expected_round: int | None = None,
        retention_s: float = 3600.0,
        retention_slides: int = 10_000,
    ) -> bool:
        """Appends the terminal event `state` of the batch, and has Redis forget the batch after `retention_s`.

        The oldest ended batches are forgotten before, when all of them together have more than `retention_slides`.
        False when it is unknown, was finished before, still has live slides or is in another round than expected.
        """
        expected = "" if expected_round is None else expected_round
        return bool(await self._scripts.run("finish", batch, state, _ms(retention_s), expected, retention_slides))

    # Keeping order.

    async def reclaim(self, sweeper: str, *, looked_s: float = 0.0) -> Reclaimed:
        """Takes back leases that ran out (at most 100 a call), each charged with a crash. See `ContactWatch` first.

        `looked_s` is the server's time at that look: later than half a lease past it nothing is taken. What a clock
        that went back has left to end far ahead is brought near again.
        """
        latest_ms = _ms(looked_s + self.lease_s / 2) if looked_s else 0
        reply = await self._scripts.run("reclaim", sweeper, _ms(self.lease_s), self.max_crashes, SWEEP, latest_ms)
        condemned = tuple(self._leases(reply[1:]))
        return Reclaimed(requeued=int(reply[0]) - len(condemned), condemned=condemned)

    async def drained(self, limit: int = 100) -> list[str]:
        """Batches whose slides have all ended and that are not finished yet, the longest drained first.

        A hint: whether a batch is complete, the store decides. `audit` or `submit` what it says is missing.
        """
        with translated():
            found = await self._redis.zrange(f"{self._tag}:drained", 0, limit - 1)
        return [str(batch) for batch in found]

    async def audit(self, batch: str, indices: Sequence[int]) -> int:
        """Repairs submitted slides, out of those without an outcome in the store, that are not in exactly one place.

        Returns how many; they wait again, uncharged. Slides that were never submitted are left to `submit`. Raises
        `Unavailable` when Redis does not know the batch.
        """
        repaired = 0
        for start in range(0, len(indices), CHUNK):
            repaired += self._known(int(await self._scripts.run("audit", batch, *indices[start : start + CHUNK])))
        return repaired

    async def renumber(self, batch: str) -> None:
        """Has the events of a batch go on far above all before; for after a restart of Redis, which can lose some."""
        await self._scripts.run("renumber", batch)

    async def drain(self, worker: str) -> None:
        """Asks a worker to lease nothing more: its renewals answer DRAIN, its leases nothing. Forgotten after a day."""
        await self._scripts.run("drain", worker)

    async def draining(self, worker: str) -> bool:
        """Whether the worker was asked to drain, for one that has nothing to renew."""
        with translated():
            return await self._redis.zscore(f"{self._tag}:draining", worker) is not None

    # Looking.

    async def running(self, batch: str) -> list[int]:
        """Indices of the slides of a batch that are leased now, ascending."""
        with translated():
            entries = await self._redis.zrange(f"{self._tag}:leased", 0, -1)
        names = (str(entry).rpartition("/") for entry in entries)
        return sorted(int(index) for name, _slash, index in names if name == batch)

    async def snapshot(self, batch: str) -> Snapshot | None:
        """The batch as it is now, or None when Redis does not know it."""
        with translated():
            # redis-py types the commands of both its clients at once; these are awaitable.
            fields: dict[str, str] = await cast("Any", self._redis.hgetall(f"{self._tag}:batch:{batch}"))
        return snapshot_of(fields) if fields else None

    async def events(self, batch: str, after: int, limit: int = 100) -> list[Event]:
        """At most `limit` events of the batch with a sequence above `after`, in order."""
        with translated():
            found = await self._redis.xrange(f"{self._tag}:events:{batch}", f"{after + 1}-0", "+", count=limit)
        return _events(found)

    async def next_events(self, batch: str, after: int, limit: int, timeout_s: float) -> list[Event]:
        """`events`, as soon as there is one; none after `timeout_s`. One round trip."""
        return _events(await self._read(f"{self._tag}:events:{batch}", f"{after}-0", timeout_s, limit))

    async def wait_ready(self, timeout_s: float) -> None:
        """Returns when a slide became ready since the last call, at the latest after `timeout_s`. A hint for idlers.

        It does not ring for a delayed slide that becomes due: wait for a second or so at a time.
        """
        rung = await self._read(f"{self._tag}:bell", self._bell, timeout_s)
        self._bell = rung[-1][0] if rung else self._bell

    async def depth(self) -> Depth:
        """What waits and runs in the lane now."""
        stat, routine, leased, delayed, stat_ms, routine_ms = await self._scripts.run("depth")
        return Depth(stat, routine, leased, delayed, stat_ms / 1000, routine_ms / 1000)

    async def tallies(self) -> dict[str, int]:
        """Counters of the lane since Redis was last empty; one that never counted is missing.

        refused: stale tokens. repeated: second ends of a slide. recovered: leases whose answer was lost. crashes,
        condemned: by `reclaim`. repaired: by `audit`. orphans: entries of unknown batches.
        """
        with translated():
            found: Mapping[str, str] = await cast("Any", self._redis.hgetall(f"{self._tag}:stats"))
        return {name: int(value) for name, value in found.items()}

    async def server(self) -> Server:
        """Which Redis this is, since when, and what time it is there; also the cheapest proof of contact."""
        return await safety.server(self._redis)

    async def check_safe(self, *, allow_volatile: bool) -> None:
        """Raises `Unsafe(UNSAFE_REDIS)` for a Redis that may lose the queue: see `safety.check` (I15)."""
        await safety.check(self._redis, allow_volatile=allow_volatile)

    async def _stop(self, batch: str, state: str) -> int:
        ended, index = 0, 0
        while index >= 0:
            index, count = await self._scripts.run("stop", batch, state, index, CHUNK)
            ended += count
        return ended

    async def _read(
        self, stream: str, after: str, timeout_s: float, limit: int = 1
    ) -> list[tuple[str, dict[str, str]]]:
        """The first entries above `after`, waiting for one; none when there is none in time."""
        with translated():
            async with asyncio.timeout(timeout_s + REPLY_GRACE_S):
                # BLOCK 0 would be for ever.
                found = await self._blocking.xread({stream: after}, count=limit, block=max(_ms(timeout_s), 1))
        return cast("Any", found)[0][1] if found else []

    def _leases(self, reply: Sequence[Any]) -> list[Lease]:
        return [
            Lease(
                batch=batch,
                index=index,
                round=int(number),
                token=token,
                attempts=attempts,
                crashes=crashes,
                alone=crashes > 0,
                version=version,
                digest=digest,
                queued_s=queued_ms / 1000,
                expires_s=lease_ms / 1000,
                stat=bool(stat),
            )
            for (
                batch, index, number, token, attempts, crashes, version, digest, queued_ms, lease_ms, stat,
            ) in _rows(reply, LEASE_FIELDS)
        ]  # fmt: skip

    @staticmethod
    def _known(answer: int) -> int:
        if answer == -1:
            raise Unavailable(
                Reason.QUEUE_UNAVAILABLE,
                "the queue has lost the batch; it is rebuilt from the store",
                retry_after_s=RETRY_AFTER_S,
            )
        return answer


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _events(entries: Any) -> list[Event]:
    found = []
    for name, fields in entries:
        index, state, attempts, time_ms = fields["e"].split(" ")
        found.append(Event(int(name.partition("-")[0]), int(index), state, int(attempts), int(time_ms) / 1000))
    return found


def _named(leases: Sequence[Lease]) -> list[str]:
    return [part for lease in leases for part in (lease.entry, lease.token)]


def _rows(reply: Sequence[Any], width: int) -> list[tuple[Any, ...]]:
    return [tuple(reply[start : start + width]) for start in range(0, len(reply), width)]
