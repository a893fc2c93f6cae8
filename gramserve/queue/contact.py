"""Decides when it is fair to take leases back: not before everybody could have renewed them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from gramserve.errors import GramserveError
from gramserve.queue.states import Server


class ContactWatch:
    """What one sweeper has seen of Redis; `look` through it, ask `settled` before every `Queue.reclaim`.

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

    async def look(self, server: Callable[[], Awaitable[Server]]) -> Server:
        """Looks at Redis (`queue.server`) and tells itself what it saw; raises what the look raises.

        An answer that took longer than half a lease is a loss: others may have waited for theirs as long.
        """
        asked = self._clock()
        try:
            found = await server()
        except GramserveError:
            self.lost()
            raise
        if self._clock() - asked > self._lease_s / 2:
            self.lost()
        self.seen(found)
        return found

    def seen(self, server: Server) -> None:
        """Redis answered: `await queue.server()`."""
        now = self._clock()
        settled_at = self._settled_at
        if 0 <= server.uptime_s < self._lease_s:  # below 0 its clock went back, which makes nothing overdue
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
