"""What can go wrong in a store, from the words of the system to those of gramserve."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from obstore.exceptions import BaseError

from gramserve.errors import Exhausted, NotFound, Reason, Unavailable, Unsafe

# EFBIG: the file system's or the process's limit on one file.
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_MISSING = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR}
_RETRY_AFTER_S = 5.0


class ObjectMissing(NotFound):
    """There is no object of this name."""

    def __init__(self) -> None:
        super().__init__(Reason.REFERENCE_NOT_FOUND, "There is no such object in the store.")


def unavailable() -> Unavailable:
    """The store does not answer, or answers with an error that another try may not meet."""
    return Unavailable(
        Reason.STORE_UNAVAILABLE, "The store cannot be reached; try again.", retry_after_s=_RETRY_AFTER_S
    )


def full() -> Exhausted:
    """There is no room for another object."""
    return Exhausted(Reason.STORE_FULL, "The store is full; free space and try again.", retry_after_s=60.0)


def unsafe(what: str) -> Unsafe:
    """The store cannot keep what a service would entrust to it; `what` completes "The store ..."."""
    return Unsafe(Reason.UNSAFE_STORE, f"The store {what}.")


@contextmanager
def typed(*, writing: bool = False) -> Iterator[None]:
    """Turns errors of the system and of obstore into ObjectMissing, Exhausted (STORE_FULL) or Unavailable.

    While `writing`, nothing is ObjectMissing: a file or folder that is gone was ours, and another try may work.
    """
    try:
        yield
    except OSError as error:  # obstore's missing object is a FileNotFoundError without errno
        if not writing and (isinstance(error, FileNotFoundError) or error.errno in _MISSING):
            raise ObjectMissing from error
        if error.errno in _FULL:
            raise full() from error
        raise unavailable() from error
    except BaseError as error:
        raise unavailable() from error
