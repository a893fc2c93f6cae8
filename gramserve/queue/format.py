"""How a lane is kept in Redis, as a number: releases that keep it otherwise refuse each other."""

from __future__ import annotations

from gramserve.errors import Reason, Unsafe

FORMAT = "1"
"""Changes when keys, their values or what the scripts make of them change so that other releases misunderstand them."""

REFUSAL = "GRAMSERVE_FORMAT"
"""What a script answers, with the number that it found, before it touches a lane of another format."""


def other_format(there: str) -> Unsafe:
    """What to say of a queue that is kept in the format `there`, which is not that of this release."""
    return Unsafe(
        Reason.UNSAFE_REDIS,
        f"this Redis holds the queue of another release of gramserve (format {there}, here {FORMAT}): stop all "
        "services of that release, empty this Redis (FLUSHDB) and start again; the store rebuilds the queue",
        metadata={"format": there, "own_format": FORMAT},
    )
