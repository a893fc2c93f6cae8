"""Refused calls in the audit record: counted, and recorded together, so that no flood of them can fill it."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from gramserve.access import principal
from gramserve.errors import GramserveError, Unauthenticated
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action

FINISH_S = 2.0
"""How long the end of a service waits for its last refusals to be recorded."""


class Refusals:
    """Takes refusals at any time; `step` records those since the last one, a record for each caller, call and reason.

    A refusal waits for no record: the caller gets nothing in any case.
    """

    def __init__(self, log: AuditLog) -> None:
        self._log = log
        self._counts: Counter[tuple[str, str, str]] = Counter()

    def note(self, method: str, error: GramserveError) -> None:
        """Takes a call that was refused: `method` is "/package.Service/Method"."""
        actor = principal.UNKNOWN if isinstance(error, Unauthenticated) else principal.current().name
        self._counts[actor, method, error.reason.value] += 1

    async def keep_on(self, interval_s: float = 1.0) -> None:
        """`step` for ever; what cannot be recorded now is recorded later."""
        while True:
            with suppress(GramserveError):
                await self.step()
            await asyncio.sleep(interval_s)

    async def step(self) -> None:
        """Records what was noted until now; raises what `AuditLog.record` raises, and keeps what was not recorded.

        What is noted meanwhile waits for the next step: else a flood would become a record with each commit.
        """
        noted, self._counts = self._counts, Counter()
        try:
            while noted:
                (actor, method, reason), count = noted.popitem()
                name = method.lstrip("/")
                try:
                    await self._log.record(Action.ACCESS_REFUSE, name, actor=actor, reason=reason, count=count)
                except GramserveError:
                    noted[actor, method, reason] = count
                    raise
        finally:
            self._counts.update(noted)

    async def finish(self) -> None:
        """The last step, when no more calls come; gives up when the storage does not answer."""
        with suppress(GramserveError, TimeoutError):
            async with asyncio.timeout(FINISH_S):
                await self.step()
