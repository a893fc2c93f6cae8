"""Inference requests on their way to the children: bounded, dropped when nobody waits for them, dealt by room.

Requests are not merged: the engines are no faster on several tiles at once, and so no caller can ever suffer from
another's request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from gramserve.errors import Exhausted, GramserveError, InvalidInput, Reason, Unavailable
from gramserve.metrics import Metrics
from inference_svc.children import Children
from inference_svc.depth import SHALLOWEST
from inference_svc.process import ChildProcess
from inference_svc.protocol import Failed, Infer, Inferred
from inference_svc.work import Crashed, Ending, Ticket, TimedOut, Withdrawn

MIN_RETRY_S = 0.05
MAX_RETRY_S = 5.0
_SMOOTHING = 0.1


class Admission:
    """Holds at most `most` requests of `most_bytes` bytes together; `clock` is monotonic seconds."""

    def __init__(
        self, children: Children, *, most: int, most_bytes: int, metrics: Metrics, clock: Callable[[], float]
    ) -> None:
        self._children = children
        self._most = most
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._clock = clock
        self._waiting: deque[Ticket] = deque()
        self._held = 0
        self._bytes = 0
        self._run_s = 0.0
        self._closed = False
        self._empty = asyncio.Event()
        children.freed = self.deal  # also after a request that nobody waited for any more

    @property
    def closed(self) -> bool:
        """True when no more requests are taken."""
        return self._closed

    async def infer(self, version: str, digest: str, request: bytes, deadline_s: float | None) -> Inferred:
        """Run `request` with the artifact named by `version` and `digest`; it is not begun after `deadline_s`.

        Cancelling this takes the request back, unless a child has begun it. Raises Exhausted when there are too many;
        Unavailable; InvalidInput; GramserveError.
        """
        self._admit(len(request))
        try:
            work = Infer(0, version, digest, deadline_s, request)
            while True:
                ending = await self._run(Ticket(work))
                # Its child died while it waited there: nothing was begun.
                if not isinstance(ending, Withdrawn) or self._closed or not self._children.ready:
                    return self._answer(ending)
        finally:
            self._leave(len(request))

    def deal(self) -> None:
        """Give requests that wait to children that have room for them."""
        while self._waiting:
            ticket = self._waiting[0]
            if ticket.ending.done():
                self._waiting.popleft()
            elif (child := self._next_child(ticket.work)) is not None:
                self._waiting.popleft()
                child.give(ticket)
            elif self._children.ready:
                return
            else:  # nobody knows how long
                self._waiting.popleft()
                ticket.end(Withdrawn())

    def close(self) -> None:
        """Take no more requests."""
        self._closed = True
        if not self._held:
            self._empty.set()

    async def finish(self, grace_s: float) -> None:
        """After `close`: wait until all are answered, for at most `grace_s` seconds; the rest is taken back."""
        try:
            async with asyncio.timeout(grace_s):
                await self._empty.wait()
        except TimeoutError:
            for ticket in self._waiting:
                ticket.end(Withdrawn())
            self._waiting.clear()

    async def _run(self, ticket: Ticket) -> Ending:
        self._waiting.append(ticket)
        self.deal()
        try:
            return await ticket.ending
        except asyncio.CancelledError:
            self._metrics.count("infer_dropped", cause="cancelled")
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:
                self._children.withdraw(ticket)
            raise

    def _next_child(self, work: object) -> ChildProcess | None:
        """The child with room that has the version loaded, if any, and least to do."""
        assert isinstance(work, Infer)
        free = [child for child in self._children.able if child.infers < SHALLOWEST]
        return min(free, key=lambda child: (work.version not in child.models, len(child.pending)), default=None)

    def _admit(self, size: int) -> None:
        if self._closed:
            raise _shutting_down()
        if self._held >= self._most or self._bytes + size > self._most_bytes:
            self._metrics.count("infer_dropped", cause="exhausted")
            retry_s = min(max(MIN_RETRY_S, self._held * self._run_s / max(1, self._children.ready)), MAX_RETRY_S)
            raise Exhausted(
                Reason.QUEUE_FULL, "Too many requests wait already; try again later.", retry_after_s=retry_s
            )
        self._held += 1
        self._bytes += size
        self._metrics.set("infer_in_flight", self._held)

    def _leave(self, size: int) -> None:
        self._held -= 1
        self._bytes -= size
        self._metrics.set("infer_in_flight", self._held)
        if self._closed and not self._held:
            self._empty.set()
        self.deal()

    def _answer(self, ending: Ending) -> Inferred:
        match ending:
            case Inferred():
                ran_s = ending.input_s + ending.infer_s + ending.output_s
                self._run_s += _SMOOTHING * (ran_s - self._run_s)
                self._metrics.count("tiles", ending.tiles)
                return ending
            case Failed():
                raise self._failure(ending)
            case Crashed(cause):
                raise GramserveError(Reason.WORKER_CRASHED, f"The request ended the process that ran it ({cause}).")
            case TimedOut(limit_s, cpu=True):
                raise GramserveError(
                    Reason.CPU_TIME_EXCEEDED,
                    f"The request used more than the {limit_s:g} s of CPU time that one may use.",
                )
            case TimedOut(limit_s):
                raise GramserveError(
                    Reason.SLIDE_TIMEOUT, f"The request took longer than the {limit_s:g} s that one may take."
                )
        if self._closed:
            raise _shutting_down()
        raise Unavailable(Reason.SERVICE_UNAVAILABLE, "No child process can work now; try again.", retry_after_s=1.0)

    def _failure(self, failed: Failed) -> GramserveError:
        reason = Reason(failed.reason)
        if reason is Reason.DEADLINE_PASSED:
            self._metrics.count("infer_dropped", cause="deadline")
            return Unavailable(reason, failed.message)
        if reason in {Reason.MODEL_UNAVAILABLE, Reason.STORE_UNAVAILABLE}:
            return Unavailable(reason, failed.message, retry_after_s=MAX_RETRY_S)
        if reason is Reason.OUT_OF_MEMORY:
            return Exhausted(reason, "There was not enough memory for this request; send fewer tiles at once.")
        if reason is Reason.ENGINE_FAILED:
            return GramserveError(reason, "The engine failed on this request.")
        if reason is Reason.INTERNAL:
            return GramserveError(reason, failed.message)
        return InvalidInput(reason, failed.message)  # what is left is wrong with the request or its images


def _shutting_down() -> Unavailable:
    return Unavailable(Reason.SHUTTING_DOWN, "This worker is shutting down; ask another.", retry_after_s=1.0)
