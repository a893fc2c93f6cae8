"""The queue against a model of it in plain Python."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gramserve.queue import Completion, EmbeddedRedis, Lease, RenewStatus, connect
from tests.queue.lane import DUE_S, Lane

T = TypeVar("T")
MAX_CRASHES = 3
WORKERS = st.sampled_from(["w1", "w2"])
BATCHES = ("lab/a", "lab/b", "lab/c")
SIZE = 4
RANK = {"lab/a": (1, DUE_S), "lab/b": (1, DUE_S - 5), "lab/c": (0, DUE_S + 5)}
LIVE = ("WAITING", "DELAYED", "LEASED")


@dataclass
class Slide:
    """What the model knows of one slide; `state` is one of LIVE, "NEW" before it is submitted, or how it ended."""

    batch: str
    index: int
    state: str = "NEW"
    attempts: int = 0
    crashes: int = 0
    condemned: bool = False
    worker: str = ""
    token: str = ""
    claimant: str = ""

    @property
    def rank(self) -> tuple[int, float, str, int]:
        return (*RANK[self.batch], self.batch, self.index)


class QueueMachine(RuleBasedStateMachine):
    """Does to a real queue and to the model what any crowd of gateways and workers could do."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.lane = Lane(connect(self.url), max_crashes=MAX_CRASHES)
        self.queue = self.lane.queue
        self.slides: dict[tuple[str, int], Slide] = {}
        self.stopping: dict[str, str] = {}
        self.leases: list[tuple[str, Lease]] = []

    def teardown(self) -> None:
        self.run(self.queue.aclose())
        self.run(self.lane.redis.aclose())
        self.loop.close()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def of(self, batch: str, *states: str) -> list[Slide]:
        return [slide for slide in self.slides.values() if slide.batch == batch and slide.state in states]

    def put_back(self, slide: Slide, state: str = "WAITING") -> None:
        slide.worker = slide.token = ""
        slide.state = self.stopping.get(slide.batch, state)

    def condemn(self, slide: Slide) -> None:
        slide.state, slide.condemned, slide.worker, slide.token = "LEASED", True, "", "unknown"

    def holder(self, worker: str, lease: Lease) -> Slide | None:
        slide = self.slides[lease.batch, lease.index]
        held = slide.state == "LEASED" and (slide.worker, slide.token) == (worker, lease.token)
        return slide if held else None

    @initialize()
    def open_all(self) -> None:
        for batch, (routine, due_s) in RANK.items():
            assert self.run(self.lane.open(batch, SIZE, priority_stat=not routine, due_s=due_s))
            self.run(self.queue.drain("draining"))
            self.slides |= {(batch, index): Slide(batch, index) for index in range(SIZE)}

    @rule(batch=st.sampled_from(BATCHES), count=st.integers(1, SIZE))
    def submit(self, batch: str, count: int) -> None:
        new = [slide for slide in self.of(batch, "NEW") if slide.index < count]
        assert self.run(self.queue.submit(batch, range(count), more=count < SIZE)) == len(new)
        for slide in new:
            self.put_back(slide)

    @rule(worker=WORKERS, n=st.integers(1, 3), idle=st.booleans())
    def lease(self, worker: str, n: int, idle: bool) -> None:
        expected: list[Slide] = []
        for slide in sorted((s for b in BATCHES for s in self.of(b, "WAITING")), key=lambda slide: slide.rank):
            if len(expected) == n:
                break
            if not slide.crashes:
                expected.append(slide)
            elif idle and not expected:
                expected.append(slide)
                break
            elif slide.claimant in ("", worker):
                slide.claimant = worker
                break
        leases = self.run(self.queue.lease(worker, n, idle=idle))
        assert [(lease.batch, lease.index) for lease in leases] == [(slide.batch, slide.index) for slide in expected]
        for lease, slide in zip(leases, expected, strict=True):
            assert (lease.attempts, lease.crashes, lease.alone) == (slide.attempts, slide.crashes, slide.crashes > 0)
            slide.state, slide.worker, slide.token, slide.claimant = "LEASED", worker, lease.token, ""
            self.leases.append((worker, lease))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), state=st.sampled_from(["SUCCEEDED", "FAILED"]))
    def complete(self, data: st.DataObject, state: str) -> None:
        worker, lease = data.draw(st.sampled_from(self.leases))
        slide = self.holder(worker, lease)
        if slide:
            slide.state = state
        remaining = len(self.of(lease.batch, *LIVE))
        assert self.run(self.queue.complete(lease, worker, state)) == Completion(slide is not None, remaining)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), crash=st.booleans(), delay_s=st.sampled_from([0.0, 60.0]))
    def fail(self, data: st.DataObject, crash: bool, delay_s: float) -> None:
        worker, lease = data.draw(st.sampled_from(self.leases))
        slide = self.holder(worker, lease)
        assert self.run(self.queue.fail(lease, worker, crash=crash, delay_s=delay_s)) == (slide is not None)
        if slide:
            slide.crashes, slide.attempts = slide.crashes + crash, slide.attempts + (not crash)
            if slide.crashes >= MAX_CRASHES and slide.batch not in self.stopping:
                self.condemn(slide)
            else:
                self.put_back(slide, "DELAYED" if delay_s else "WAITING")

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        worker, lease = data.draw(st.sampled_from(self.leases))
        slide = self.holder(worker, lease)
        assert self.run(self.queue.release([lease], worker)) == (slide is not None)
        if slide and slide.condemned and slide.batch not in self.stopping:
            self.condemn(slide)
        elif slide:
            self.put_back(slide)

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        expected = []
        for _, lease in self.leases:
            if self.holder(worker, lease) is None:
                expected.append(RenewStatus.LOST)
            else:
                expected.append(RenewStatus.CANCEL if lease.batch in self.stopping else RenewStatus.OK)
        assert self.run(self.queue.renew(worker, [lease for _, lease in self.leases])) == expected

    @rule(sweeper=WORKERS)
    def every_lease_runs_out(self, sweeper: str) -> None:
        self.run(self.lane.let_leases_run_out())
        found = self.run(self.queue.reclaim(sweeper))
        condemned = {(lease.batch, lease.index): lease for lease in found.condemned}
        requeued = 0
        for slide in self.slides.values():
            if slide.state != "LEASED":
                continue
            slide.crashes += not slide.condemned
            if slide.crashes >= MAX_CRASHES and slide.batch not in self.stopping:
                lease = condemned.pop((slide.batch, slide.index))
                slide.condemned, slide.worker, slide.token = True, sweeper, lease.token
                self.leases.append((sweeper, lease))
            else:
                self.put_back(slide)
                requeued += 1
        assert (found.requeued, condemned) == (requeued, {})

    @rule()
    def every_delay_passes(self) -> None:
        self.run(self.lane.let_delays_pass())
        assert self.run(self.queue.lease("draining", 1, idle=True)) == []
        for batch in BATCHES:
            for slide in self.of(batch, "DELAYED"):
                slide.state = "WAITING"

    @rule(batch=st.sampled_from(BATCHES), state=st.sampled_from(["CANCELLED", "EXPIRED"]))
    def stop(self, batch: str, state: str) -> None:
        if self.of(batch, "NEW", *LIVE):
            self.stopping.setdefault(batch, state)
        waiting = self.of(batch, "WAITING", "DELAYED")
        call = self.queue.cancel if state == "CANCELLED" else self.queue.expire
        assert self.run(call(batch)) == len(waiting)
        for slide in waiting:
            slide.state = self.stopping[batch]

    @rule(batch=st.sampled_from(BATCHES))
    def audit(self, batch: str) -> None:
        assert self.run(self.queue.audit(batch, range(SIZE))) == 0

    @invariant()
    def the_queue_says_what_the_model_says(self) -> None:
        if not self.slides:
            return
        self.run(self.lane.check(BATCHES))
        drained = []
        for batch in BATCHES:
            seen = self.run(self.lane.snapshot(batch))
            said = (seen.queued, seen.running, seen.succeeded, seen.failed, seen.cancelled, seen.expired)
            assert said == (
                len(self.of(batch, "NEW", "WAITING", "DELAYED")),
                *(len(self.of(batch, state)) for state in ("LEASED", "SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")),
            )
            events = self.run(self.queue.events(batch, 0, 10_000))
            sequences = [event.sequence for event in events]
            assert sequences == list(range(1, seen.last_sequence + 1))
            ends = [event.index for event in events if event.state in ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")]
            assert len(ends) == len(set(ends)), "I2: a slide ends once"
            if not self.of(batch, "NEW", *LIVE):
                drained.append(batch)
        assert sorted(self.run(self.queue.drained())) == drained


def test_whatever_happens_the_queue_is_as_its_model(server: EmbeddedRedis) -> None:
    class Machine(QueueMachine):
        url = server.url

    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
