"""Keeping the audit record: days that have ended become files, and its end is told to the log."""

from __future__ import annotations

from gramserve import log
from gramserve.store.audit import AuditLog


class AuditKeeper:
    """Turns days and says where the record ends: a log kept elsewhere shows later what was cut off."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._told = 0
        self._log = log.get()

    async def step(self) -> None:
        """One look; raises what the store raises."""
        head = await self._audit.turn_day()
        if head.number != self._told:
            self._told = head.number
            self._log.info("audit record", number=head.number, hash=head.hash)
