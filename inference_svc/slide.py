"""One leased slide as this worker holds it, and the set of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gramserve.queue import Lease
from gramserve.store.records import Priority
from inference_svc.work import Ticket


class Slide:
    """A lease and what became of it here.

    `deadline_s` is a reading of the worker's own monotonic clock, counted from before the call that took or renewed
    the lease: up to then nobody else can have got the slide. Past it nothing may be written (I5) until a renewal proves
    that the lease is still ours. `leased_s` is that clock before the call that took it.
    """

    __slots__ = ("_gone", "deadline_s", "lease", "leased_s", "ticket")

    def __init__(self, lease: Lease, deadline_s: float) -> None:
        self.lease = lease
        self.deadline_s = deadline_s
        self.leased_s = deadline_s - lease.expires_s
        self._gone = False
        self.ticket: Ticket | None = None

    @property
    def laboratory(self) -> str:
        """The laboratory that the slide belongs to."""
        return self.lease.batch.partition("/")[0]

    @property
    def batch(self) -> str:
        """The id of its batch within the laboratory."""
        return self.lease.batch.partition("/")[2]

    @property
    def attempts(self) -> int:
        """Deliveries of the slide, this one included."""
        return self.lease.attempts + self.lease.crashes + 1

    @property
    def priority(self) -> Priority:
        """STAT or ROUTINE."""
        return Priority.STAT if self.lease.stat else Priority.ROUTINE

    def begins_before_s(self, due_s: float | None) -> float | None:
        """The reading of our clock when it is `due_s` (unix seconds) for the server; None stays None."""
        return None if due_s is None else self.leased_s + due_s - self.lease.granted_s

    def lose(self) -> None:
        """The lease is not ours any more, for good."""
        self._gone = True

    def gone(self) -> bool:
        """True when nothing that becomes of the slide here matters any more."""
        return self._gone

    def may_write(self, now_s: float) -> bool:
        """True while the slide is surely ours."""
        return not self._gone and now_s < self.deadline_s


class Held:
    """The slides that this worker has leased and not yet ended; `changed` is called whenever one leaves."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._slides: dict[str, Slide] = {}
        self._coming: dict[str, Slide] = {}
        self._alone = 0
        self._changed = changed

    def add(self, slide: Slide) -> None:
        """Take a slide in."""
        self._slides[slide.lease.token] = self._coming[slide.lease.token] = slide
        self._alone += slide.lease.alone

    def remove(self, slide: Slide) -> None:
        """The slide ended, was given back or was lost."""
        if self._slides.pop(slide.lease.token, None) is not None:
            self._coming.pop(slide.lease.token, None)
            self._alone -= slide.lease.alone
            self._changed()

    @property
    def alone(self) -> bool:
        """True while a slide that crashed before is here: nothing may run beside it."""
        return self._alone > 0

    @property
    def coming(self) -> int:
        """How many are on their way to the children."""
        if self._coming:
            self._coming = {token: slide for token, slide in self._coming.items() if slide.ticket is None}
        return len(self._coming)

    def longest_s(self, now_s: float) -> float:
        """How long the slide is here that is here longest; 0 where there is none. From any thread."""
        return max((now_s - slide.leased_s for slide in list(self._slides.values())), default=0.0)

    def __len__(self) -> int:
        return len(self._slides)

    def __iter__(self) -> Iterator[Slide]:
        return iter(list(self._slides.values()))
