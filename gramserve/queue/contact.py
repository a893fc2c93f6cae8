"""Decides when it is fair to take leases back: not before everybody could have renewed them."""

from __future__ import annotations

import time
from collections.abc import Callable

from gramserve.queue.states import Server


class ContactWatch:
    """What one sweeper has seen of Redis; tell it every look, ask `settled` before every `Queue.reclaim`.

    Leases expire by the wall clock, and it goes on while Redis is away, restarts or stands still: after an outage
    longer than a lease all running work looks dead. Renewing an overdue lease works until somebody reclaims it, so
    after any loss of contact a sweeper leaves the workers one full lease. A restart or fail-over, seen by the run id
    or a short uptime, and a server clock that jumped ahead of ours count as losses too.
    """

    def __init__(self, lease_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._settled_at = float("-inf")
        self._in_contact = False
        self._was_lost = False
        self._last: tuple[Server, float] | None = None
        self.restarts = 0
        """How often Redis was seen to have been restarted or replaced: audit the queue when this rises."""

    def seen(self, server: Server) -> None:
        """Redis answered: `await queue.server()`."""
        now = self._clock()
        settled_at = self._settled_at
        if server.uptime_s < self._lease_s:
            settled_at = max(settled_at, now + self._lease_s - server.uptime_s)
        if self._was_lost:
            settled_at = now + self._lease_s
        if self._last is not None:
            before, at = self._last
            if before.run_id != server.run_id:
                self.restarts += 1
                settled_at = now + self._lease_s
            if (server.time_s - before.time_s) - (now - at) > self._lease_s / 2:
                settled_at = now + self._lease_s
        self._settled_at, self._last = settled_at, (server, now)
        self._in_contact, self._was_lost = True, False

    def lost(self) -> None:
        """A call to Redis failed."""
        self._in_contact, self._was_lost = False, True

    @property
    def settled(self) -> bool:
        """True when Redis was in contact for one full lease, so that what is overdue now is dead."""
        return self._in_contact and self._clock() >= self._settled_at
