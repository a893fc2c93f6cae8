"""The hold of this service on a running optimization: its lease, kept alive, and the reasons to let go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import IntEnum

from gramserve.errors import GramserveError
from gramserve.queue import Lease, Queue, RenewStatus

RENEWALS = 6
"""Renewals in the time of a lease: five may fail before it ends."""


class LetGo(IntEnum):
    """Why to stop working, the stronger reason with the higher number."""

    STOPPING = 1  # the service ends: give the job back
    CANCELLED = 2  # somebody asked for cancellation
    LOST = 3  # the lease is gone: write nothing more


class Interrupted(Exception):
    """The work shall not go on; the hold says why."""


class Hold:
    """A lease that was asked for at `leased_at_s` of the monotonic `clock`; past its local deadline it is lost."""

    def __init__(self, queue: Queue, worker: str, lease: Lease, leased_at_s: float, clock: Callable[[], float]) -> None:
        self.lease = lease
        self.interrupted, self.lost = asyncio.Event(), asyncio.Event()
        self.reason: LetGo | None = None
        self._queue = queue
        self._worker = worker
        self._clock = clock
        self._deadline_s = leased_at_s + lease.expires_s

    def let_go(self, reason: LetGo) -> None:
        """Have the work stop; a weaker reason than the one there changes nothing."""
        if self.reason is None or reason > self.reason:
            self.reason = reason
        self.interrupted.set()
        if reason is LetGo.LOST:
            self.lost.set()

    def check(self) -> None:
        """Raises Interrupted when the work shall not go on."""
        if self._clock() >= self._deadline_s:
            self.let_go(LetGo.LOST)
        if self.interrupted.is_set():
            raise Interrupted

    def check_owned(self) -> None:
        """Raises Interrupted when nothing may be written any more (I5): only for a lease that is lost."""
        if self._clock() >= self._deadline_s:
            self.let_go(LetGo.LOST)
        if self.reason is LetGo.LOST:
            raise Interrupted

    async def keep(self) -> None:
        """Renews the lease until it is lost."""
        while self.reason is not LetGo.LOST:
            await asyncio.sleep(min(self.lease.expires_s / RENEWALS, max(self._deadline_s - self._clock(), 0.0)))
            asked_at_s = self._clock()
            if asked_at_s >= self._deadline_s:
                self.let_go(LetGo.LOST)
                return
            try:
                async with asyncio.timeout(self._deadline_s - asked_at_s):
                    (status,) = await self._queue.renew(self._worker, [self.lease])
            except (GramserveError, TimeoutError):
                continue
            if status is RenewStatus.LOST:
                self.let_go(LetGo.LOST)
                return
            self._deadline_s = asked_at_s + self.lease.expires_s
            if status is RenewStatus.CANCEL:
                self.let_go(LetGo.CANCELLED)
            elif status is RenewStatus.DRAIN:
                self.let_go(LetGo.STOPPING)
