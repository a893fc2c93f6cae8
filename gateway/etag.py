"""The etag of a batch: changes with its state, not with every slide."""

from __future__ import annotations

import hashlib

from gramserve.errors import Conflict, Reason
from gramserve.store.records import BatchRecord, BatchState


def etag_of(record: BatchRecord, number: int, state: BatchState) -> str:
    """The etag of a batch in round `number` and `state`.

    Counts are left out: a running batch changes with every slide, and no etag would be fresh by the time it is used.
    """
    facts = f"{record.laboratory}/{record.batch}/{record.create_time}/{number}/{state}"
    return hashlib.sha256(facts.encode()).hexdigest()[:16]


def check_etag(given: str, now: str) -> None:
    """Raises Conflict (STALE_ETAG) when the client gave an etag and it is not that of `now`."""
    if given and given != now:
        raise Conflict(Reason.STALE_ETAG, "the batch changed since the etag was read; read it again")
