"""Who calls: a principal with roles and laboratories, known to everything that one rpc does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum

ALL_LABORATORIES = "*"


class Role(StrEnum):
    """What a principal may be; every rpc names the roles that may call it."""

    SUBMITTER = "submitter"
    REVIEWER = "reviewer"
    MODEL_PUBLISHER = "model-publisher"
    MODEL_APPROVER = "model-approver"
    AUDITOR = "auditor"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """A person or a system that calls. `laboratories` are ids, or ALL_LABORATORIES."""

    name: str
    roles: frozenset[Role]
    laboratories: frozenset[str]

    def may_see(self, laboratory: str) -> bool:
        """Whether the batches and images of `laboratory` exist for it."""
        return ALL_LABORATORIES in self.laboratories or laboratory in self.laboratories


ANYONE = Principal("anyone", frozenset(Role), frozenset({ALL_LABORATORIES}))
"""Who calls where callers are not told apart: on the loopback of a trial."""

SYSTEM = "gramserve"
"""Who acts where nobody asked: delivery, retention, the turn of a day."""

UNKNOWN = "unknown"
"""Who was refused where nobody knows who called."""

NOBODYS_NAMES = frozenset({ANYONE.name, SYSTEM, UNKNOWN})
"""What no principal may be called: the audit record must not take one for them."""

_current: ContextVar[Principal] = ContextVar("principal", default=ANYONE)


def current() -> Principal:
    """Who called the rpc that runs in this task; ANYONE outside of one."""
    return _current.get()


def become(principal: Principal) -> None:
    """Everything that the running task does from now on is done for `principal`: each rpc has a task of its own."""
    _current.set(principal)


@contextmanager
def acting_as(principal: Principal) -> Iterator[None]:
    """Everything inside is done for `principal`; tasks that are started inside keep it."""
    token = _current.set(principal)
    try:
        yield
    finally:
        _current.reset(token)
