"""Work on many things, of which one that fails keeps no other from its turn."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gramserve.errors import GramserveError, Reason


class Aside:
    """Keeps the first failure until all have had their turn; without the queue there is no turn for any."""

    def __init__(self) -> None:
        self._first: Exception | None = None

    @contextmanager
    def put(self) -> Iterator[None]:
        """Around the work on one thing. Raises QUEUE_UNAVAILABLE at once, and keeps what else it raises."""
        try:
            yield
        except Exception as error:  # whatever it is, such as a damaged record: it is of this one alone
            if isinstance(error, GramserveError) and error.reason is Reason.QUEUE_UNAVAILABLE:
                raise
            self._first = self._first or error

    def tell(self) -> None:
        """Raises the first failure, if there was one."""
        if self._first is not None:
            raise self._first
