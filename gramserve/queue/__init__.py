"""The fenced queue: which slide runs where, for how long, and what became of it."""

from __future__ import annotations

from gramserve.queue.connection import connect
from gramserve.queue.contact import ContactWatch
from gramserve.queue.embedded import EmbeddedRedis
from gramserve.queue.memory import Memory, memory
from gramserve.queue.queue import Queue
from gramserve.queue.roster import QUIET_S, Card, Roster, Seen
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

__all__ = [
    "QUIET_S",
    "Card",
    "Completion",
    "ContactWatch",
    "Depth",
    "Done",
    "EmbeddedRedis",
    "Event",
    "Lease",
    "Memory",
    "Queue",
    "Reclaimed",
    "RenewStatus",
    "Roster",
    "Seen",
    "Server",
    "Settled",
    "Settlement",
    "Snapshot",
    "connect",
    "memory",
]
