"""Runs a candidate beside production, on slides whose results were handed over, while no slide waits."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b

from gramserve import log
from gramserve.calls import Call
from gramserve.errors import GramserveError, Reason
from gramserve.metrics import Metrics
from gramserve.store.registry import Registry, Resolved
from gramserve.store.shadows import Shadows, ShadowTally, Verdict
from inference_svc.children import Children
from inference_svc.compare import compare
from inference_svc.protocol import Failed, Finished, RunShadow, RunSlide
from inference_svc.slide import Slide
from inference_svc.work import Crashed, Ticket, TimedOut

BACKLOG = 2048
"""Slides that wait to be run by a candidate; more are skipped."""

MOST_TILES = 4096
"""Slides with more tiles are skipped: production divides them, a shadow would hold one child for too long."""

TURNS = 5
"""So often a slide is begun by a candidate and set aside for a slide that waits, before it is skipped."""

MAX_CRASHES = 3
"""A candidate that ended so many children, or took too long so often, is not run by this worker any more."""

LOAD_PAUSE_S = 60.0
WRITE_S = 5.0

_NOT_ITS_FAULT = {Reason.STORE_UNAVAILABLE, Reason.REFERENCE_NOT_FOUND, Reason.REFERENCE_DENIED}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version in the shadow of `production`, and the share (0 to 1) of production's slides that it runs."""

    version: Resolved
    production: Resolved
    share: float


@dataclass(slots=True)
class _Job:
    candidate: Candidate
    work: RunShadow
    production: Call
    production_s: float
    turns: int = 0


def chosen(batch: str, index: int, share: float) -> bool:
    """Whether a slide belongs to the share: the same answer everywhere and at every attempt."""
    number = int.from_bytes(blake2b(f"{batch}/{index}".encode(), digest_size=4).digest())
    return number < share * 2**32


class Shadow:
    """Nothing here is delivered, waited for or charged to a slide.

    `writer` names this process in the store; `clock` is monotonic seconds.
    """

    def __init__(
        self,
        *,
        children: Children,
        registry: Registry,
        store: Shadows,
        metrics: Metrics,
        writer: str,
        clock: Callable[[], float],
    ) -> None:
        self._children = children
        self._registry = registry
        self._store = store
        self._metrics = metrics
        self._writer = writer
        self._clock = clock
        self._log = log.get()
        self._candidates: Mapping[str, Candidate] = {}
        self._backlog: deque[_Job] = deque()
        self._quiet = False
        self._changed = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._crashes: Counter[str] = Counter()
        self._paused: dict[str, float] = {}
        self._tallies: dict[tuple[str, int, int], ShadowTally] = {}
        self._unwritten: set[tuple[str, int, int]] = set()
        self._written_s = clock()

    def follow(self, candidates: Mapping[str, Candidate]) -> None:
        """The candidates from now on, by the name of the production version beside which each runs."""
        if candidates != self._candidates:
            self._candidates = candidates
            self._backlog = deque(job for job in self._backlog if job.candidate in candidates.values())

    def offer(self, slide: Slide, work: RunSlide, finished: Finished) -> None:
        """Production's result of a slide was handed over: its candidate may run it, too, if production ran it."""
        candidate = self._candidates.get(work.version)
        if candidate is None or not finished.tiles:
            return
        if not chosen(slide.lease.batch, slide.lease.index, candidate.share):
            return
        if len(self._backlog) >= BACKLOG or finished.tiles > MOST_TILES or not self._may_run(candidate):
            self._count(candidate, Verdict.SKIPPED)
            return
        name, digest = candidate.version.name, candidate.version.digest
        shadow = RunShadow(0, work.laboratory, work.images, name, digest, work.specimen_type)
        self._backlog.append(_Job(candidate, shadow, _without_evidence(finished), finished.inference_s))
        self.wake()

    def quiet(self, quiet: bool) -> None:
        """Whether the queue has nothing for this worker now."""
        self._quiet = quiet
        self.wake()

    def wake(self) -> None:
        """Something changed among the children."""
        if self._quiet and self._backlog:
            self._changed.set()

    async def run(self) -> None:
        """Run candidates for ever, while nothing else is to be done."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                while self._quiet and self._backlog and (ticket := self._children.spare(self._backlog[0].work)):
                    task = asyncio.create_task(self._see(self._backlog.popleft(), ticket), name="shadow")
                    self._running.add(task)
                    task.add_done_callback(self._saw)
                idle = not self._backlog and not self._running
                if self._unwritten and (idle or self._clock() - self._written_s > WRITE_S):
                    await self.write()
        finally:
            for task in self._running:
                task.cancel()

    async def write(self) -> None:
        """Write the tallies that changed; those that the store does not take are written later."""
        self._written_s = self._clock()
        for key in list(self._unwritten):
            self._unwritten.discard(key)
            try:
                await self._store.write(*key, self._writer, self._tallies[key])
            except GramserveError as error:
                self._unwritten.add(key)
                self._log.warning("tallies of a shadow version cannot be written now", reason=error.reason)

    async def _see(self, job: _Job, ticket: Ticket) -> None:
        candidate = job.candidate
        match await ticket.ending:
            case Finished() as finished:
                await self._judge(job, finished)
            case Failed(reason=Reason.MODEL_UNAVAILABLE, cause=cause):
                self._metrics.count("model_load_failures", reason=cause)
                self._pause(candidate, cause)
            case Failed(reason=Reason.CANCELLED):
                self._again(job)
            case Failed(reason=reason) if reason in _NOT_ITS_FAULT:
                self._count(candidate, Verdict.SKIPPED)
            case Failed():
                self._count(candidate, Verdict.FAILED)
            case Crashed() | TimedOut():
                self._count(candidate, Verdict.FAILED)
                self._crashed(candidate)
            case _:
                self._again(job)

    async def _judge(self, job: _Job, finished: Finished) -> None:
        candidate = job.candidate
        try:
            manifests = [
                (await self._registry.manifest(version.model, version.version))[0]
                for version in (candidate.production, candidate.version)
            ]
        except GramserveError:
            self._count(candidate, Verdict.SKIPPED)
            return
        labels = [label for manifest in manifests for label in manifest.labels]
        verdict = compare(job.production, _without_evidence(finished), labels)
        self._count(candidate, verdict, job.production_s, finished.inference_s)

    def _saw(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a slide in the shadow could not be compared", error=log.describe(error))

    def _again(self, job: _Job) -> None:
        job.turns += 1
        if job.turns < TURNS:
            self._backlog.appendleft(job)
        else:
            self._count(job.candidate, Verdict.SKIPPED)

    def _may_run(self, candidate: Candidate) -> bool:
        name = candidate.version.name
        return self._crashes[name] < MAX_CRASHES and self._clock() >= self._paused.get(name, 0.0)

    def _pause(self, candidate: Candidate, cause: str) -> None:
        """The candidate cannot be loaded here: its slides are skipped for a minute."""
        self._paused[candidate.version.name] = self._clock() + LOAD_PAUSE_S
        self._drop(candidate)
        self._log.warning("shadow version cannot run here", version=candidate.version.name, reason=cause)

    def _crashed(self, candidate: Candidate) -> None:
        name = candidate.version.name
        self._crashes[name] += 1
        self._log.warning("shadow version ended its child", version=name, crashes=self._crashes[name])
        if self._crashes[name] >= MAX_CRASHES:
            self._drop(candidate)
            self._log.error("shadow version is not run by this worker any more", version=name)

    def _drop(self, candidate: Candidate) -> None:
        dropped = [job for job in self._backlog if job.candidate == candidate]
        self._backlog = deque(job for job in self._backlog if job.candidate != candidate)
        for _ in dropped:
            self._count(candidate, Verdict.SKIPPED)

    def _count(
        self, candidate: Candidate, verdict: Verdict, production_s: float = 0.0, candidate_s: float = 0.0
    ) -> None:
        self._metrics.count("shadow_slides", verdict=verdict)
        key = (candidate.version.model, candidate.production.version, candidate.version.version)
        one = ShadowTally({verdict: 1}, production_s, candidate_s)
        self._tallies[key] = self._tallies.get(key, ShadowTally()) + one
        self._unwritten.add(key)


def _without_evidence(finished: Finished) -> Call:
    """The call of a slide without its tiles: thousands of them may wait."""
    call = Call.from_json(finished.call)
    findings, suspected = (
        tuple(replace(finding, evidence=()) for finding in some) for some in (call.findings, call.suspected)
    )
    return replace(call, findings=findings, suspected=suspected)
