"""The queue in plain Python: what every transition should do, without Redis, time or chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gramserve.queue import RenewStatus
from tests.queue.lane import DUE_S

MAX_CRASHES = 3
SIZE = 4
LIVE = ("WAITING", "DELAYED", "LEASED")
ENDS = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")


@dataclass
class Slide:
    """What the model knows of one slide; `state` is one of LIVE, "NEW" before it is submitted, or one of ENDS.

    `token` is that of its lease, where the model knows it. `ends` counts the ends that the event log tells.
    """

    index: int
    state: str = "NEW"
    attempts: int = 0
    crashes: int = 0
    condemned: bool = False
    worker: str = ""
    token: str = ""
    claimant: str = ""
    ends: int = 0


@dataclass
class Batch:
    """One batch: `indices` are the slides of this round; `known`: Redis has it.

    Its sequence may have `jumps` gaps.
    """

    name: str
    stat: bool
    due_s: float
    slides: list[Slide] = field(default_factory=lambda: [Slide(index) for index in range(SIZE)])
    round: int = 0
    indices: tuple[int, ...] = tuple(range(SIZE))
    stopping: str = ""
    hard_due_passed: bool = False
    sealed: bool = False
    finished: str = ""
    known: bool = True
    jumps: int = 0

    def of(self, *states: str) -> list[Slide]:
        """The slides in one of `states`."""
        return [slide for slide in self.slides if slide.state in states]

    @property
    def live(self) -> int:
        return len(self.of(*LIVE))

    def stop(self) -> str:
        """The state that waiting slides get now; "" while they may start."""
        if not self.stopping and self.hard_due_passed:
            self.stopping = "EXPIRED"
        return self.stopping

    def end(self, slide: Slide, state: str) -> None:
        """The one end of a slide in a round."""
        assert slide.state not in ENDS
        self.slides[slide.index] = Slide(slide.index, state, ends=slide.ends + 1)

    def put_back(self, slide: Slide, state: str = "WAITING") -> None:
        """Off its lease, to wait, or to its end in a batch that stops."""
        slide.worker = slide.token = ""
        if stop := self.stop():
            self.end(slide, stop)
        else:
            slide.state = state


class Model:
    """Three batches: two routine, one STAT. Each method does what the transition of its name does."""

    def __init__(self) -> None:
        self.batches = {
            batch.name: batch
            for batch in (
                Batch("lab/a", False, DUE_S),
                Batch("lab/b", False, DUE_S - 5),
                Batch("lab/c", True, DUE_S + 5),
            )
        }
        self.draining: set[str] = set()
        self.unanswered: dict[str, list[tuple[Batch, Slide, str]]] = {}
        self._unknown = 0

    def unknown_token(self) -> str:
        """A stand-in for a token that nobody was told."""
        self._unknown += 1
        return f"unknown-{self._unknown}"

    def held(self, worker: str, batch: str, index: int, token: str) -> Slide | None:
        """The slide, if `worker` holds it under `token`."""
        slide = self.batches[batch].slides[index]
        return slide if slide.state == "LEASED" and (slide.worker, slide.token) == (worker, token) else None

    def submit(self, name: str, count: int) -> int:
        batch = self.batches[name]
        if batch.finished:
            return 0
        new = [slide for slide in batch.of("NEW") if slide.index < count and slide.index in batch.indices]
        for slide in new:
            slide.state = "WAITING"
        batch.sealed = batch.sealed or count == SIZE
        if batch.stop():
            for slide in new:
                batch.put_back(slide)
        return len(new)

    def recover(self, worker: str) -> int:
        """What lost calls of `worker` had leased waits again, uncharged."""
        recovered = 0
        for batch, slide, token in self.unanswered.pop(worker, []):
            if slide is batch.slides[slide.index] and slide.state == "LEASED" and slide.token == token:
                batch.put_back(slide)
                recovered += 1
        return recovered

    def lease(self, worker: str, n: int, *, idle: bool, stat_only: bool) -> list[tuple[Batch, Slide]]:
        self.recover(worker)
        self.delays_pass([])
        if worker in self.draining:
            return []
        taken: list[tuple[Batch, Slide]] = []
        for batch in sorted(self.batches.values(), key=lambda batch: (not batch.stat, batch.due_s)):
            if stat_only and not batch.stat:
                continue
            for slide in batch.of("WAITING"):
                if batch.stop():
                    batch.put_back(slide)
                elif slide.crashes and not (idle and not taken):
                    if slide.claimant in ("", worker):
                        slide.claimant = worker
                        return taken
                else:
                    slide.state, slide.worker, slide.claimant = "LEASED", worker, ""
                    slide.token = self.unknown_token()
                    taken.append((batch, slide))
                    if slide.crashes or len(taken) == n:
                        return taken
        return taken

    def complete(self, worker: str, name: str, index: int, token: str, state: str) -> tuple[bool, int]:
        batch, slide = self.batches[name], self.held(worker, name, index, token)
        if slide:
            batch.end(slide, state)
        return slide is not None, batch.live if batch.known else 0

    def fail(self, worker: str, name: str, index: int, token: str, *, crash: bool, delayed: bool) -> bool:
        batch, slide = self.batches[name], self.held(worker, name, index, token)
        if slide is None:
            return False
        slide.crashes, slide.attempts = slide.crashes + crash, slide.attempts + (not crash)
        if slide.crashes >= MAX_CRASHES and not batch.stop():
            self._condemn(slide, "")
        else:
            batch.put_back(slide, "DELAYED" if delayed else "WAITING")
        return True

    def release(self, worker: str, leases: Iterable[tuple[str, int, str]]) -> int:
        released = self.recover(worker)
        for name, index, token in leases:
            batch, slide = self.batches[name], self.held(worker, name, index, token)
            if slide is None:
                continue
            released += 1
            if slide.condemned and not batch.stop():
                self._condemn(slide, "")
            else:
                batch.put_back(slide)
        return released

    def renew(self, worker: str, name: str, index: int, token: str) -> RenewStatus:
        if self.held(worker, name, index, token) is None:
            return RenewStatus.LOST
        if self.batches[name].stopping:
            return RenewStatus.CANCEL
        return RenewStatus.DRAIN if worker in self.draining else RenewStatus.OK

    def reclaim(self, sweeper: str) -> tuple[int, list[tuple[Batch, Slide]]]:
        """All leases have run out: how many slides wait or ended, and those that are condemned."""
        requeued, condemned = 0, []
        for batch in self.batches.values():
            for slide in batch.of("LEASED"):
                slide.crashes += not slide.condemned
                if slide.crashes >= MAX_CRASHES and not batch.stop():
                    self._condemn(slide, sweeper)
                    condemned.append((batch, slide))
                else:
                    batch.put_back(slide)
                    requeued += 1
        return requeued, condemned

    def delays_pass(self, names: Sequence[str]) -> None:
        """Slides of `names` that were delayed are due; a lease sees it."""
        for name in names:
            for slide in self.batches[name].of("DELAYED"):
                slide.state = "WAITING"

    def stop(self, name: str, state: str) -> int:
        batch = self.batches[name]
        if not batch.known or batch.finished or (batch.sealed and not batch.live):
            return 0
        batch.stopping = batch.stop() or state
        waiting = batch.of("WAITING", "DELAYED")
        for slide in waiting:
            batch.put_back(slide)
        return len(waiting)

    def finish(self, name: str, state: str, number: int) -> bool:
        batch = self.batches[name]
        if not batch.known or batch.finished or batch.live or number != batch.round:
            return False
        batch.finished = state
        return True

    def retry(self, name: str) -> tuple[int, ...]:
        """The next round, of the slides that failed."""
        batch = self.batches[name]
        batch.indices = tuple(slide.index for slide in batch.of("FAILED"))
        for index in batch.indices:
            batch.slides[index] = Slide(index, ends=batch.slides[index].ends)
        batch.round, batch.stopping, batch.finished, batch.sealed = batch.round + 1, "", "", False
        batch.jumps += not batch.known
        batch.known = True
        return batch.indices

    def flush(self, durable: Iterable[Slide]) -> None:
        """Redis is empty; what the store knows is left: outcomes (those of `durable`, too), rounds, stops and ends."""
        kept = {id(slide) for slide in durable}
        self.draining.clear()
        self.unanswered.clear()
        for batch in self.batches.values():
            batch.known = False
            for index, slide in enumerate(batch.slides):
                state = "SUCCEEDED" if id(slide) in kept else slide.state
                again = index in batch.indices and state not in ("SUCCEEDED", "FAILED") and not batch.finished
                batch.slides[index] = Slide(index, "NEW" if again else state)

    def rebuild(self, batch: Batch) -> list[int]:
        """A batch that has no end is known again; the slides that are submitted anew."""
        batch.known, batch.jumps = True, batch.jumps + 1
        new = [slide.index for slide in batch.of("NEW")]
        batch.sealed = not new
        if batch.stopping == "EXPIRED":
            batch.stopping = ""
        return new

    @staticmethod
    def _condemn(slide: Slide, sweeper: str) -> None:
        slide.state, slide.condemned, slide.worker, slide.token = "LEASED", True, sweeper, "unknown"
