"""The queue against a model of it in plain Python, whatever gateways, workers, networks and Redis do."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from gramserve.errors import Unavailable
from gramserve.queue import Completion, Done, EmbeddedRedis, Lease, Queue, connect
from gramserve.queue.script import script
from gramserve.queue.states import Settlement
from tests.queue.lane import DIGEST, VERSION, Lane
from tests.queue.lossy import LossyNetwork, lossy_network
from tests.queue.model import ENDS, MAX_CRASHES, SIZE, Batch, Model
from tests.services import kill_9

T = TypeVar("T")
EXAMPLES = int(os.environ.get("GRAMSERVE_TEST_EXAMPLES", "15"))
WORKERS = st.sampled_from(["w1", "w2"])
GATEWAYS = st.sampled_from(["g1", "g2"])
BATCHES = st.sampled_from(["lab/a", "lab/b", "lab/c"])
LOST = st.sampled_from([False, False, False, True])
"""Whether the answer of a transition is lost on its way: it happened, and its caller cannot know."""
SCRIPTS = ("open", "submit", "lease", "renew", "complete", "fail", "release", "stop", "finish", "reclaim", "audit")


class QueueMachine(RuleBasedStateMachine):
    """Does to a real queue and to the model what any crowd of gateways and workers could do."""

    server: EmbeddedRedis

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.folder = TemporaryDirectory(prefix="gs-")
        self.lane = Lane(connect(self.server.url), max_crashes=MAX_CRASHES)
        self.context = lossy_network(self.server.url, Path(self.folder.name))
        self.network, url = self.run(self._entered())
        # Each process has a connection and a queue object of its own.
        self.clients = {name: connect(url) for name in ("g1", "g2", "w1", "w2")}
        self.queues = {
            name: Queue(client, self.lane.name, max_crashes=MAX_CRASHES) for name, client in self.clients.items()
        }
        self.model = Model()
        self.leases: list[tuple[str, Lease]] = []
        self.restarts = 0
        self.run(self._load_scripts())
        for batch in self.model.batches.values():
            assert self.open("g1", batch, Done(), fresh=True)

    async def _entered(self) -> tuple[LossyNetwork, str]:
        return await self.context.__aenter__()

    def teardown(self) -> None:
        for queue in self.queues.values():
            self.run(queue.aclose())
        for client in self.clients.values():
            self.run(client.aclose())
        self.run(self.lane.queue.aclose())
        self.run(self.context.__aexit__(None, None, None))
        self.run(self.lane.redis.aclose())
        self.loop.close()
        self.folder.cleanup()

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def lose(self, call: Coroutine[Any, Any, Any]) -> None:
        """The transition happens, its answer is lost."""
        self.network.losing = True
        with pytest.raises(Unavailable):
            self.run(call)
        self.network.losing = False

    async def _load_scripts(self) -> None:
        """NOSCRIPT must not be the answer that is lost: then nothing would have happened."""
        for name in SCRIPTS:
            await self.lane.redis.script_load(script(name).source)

    def open(self, gateway: str, batch: Batch, done: Done, *, fresh: bool = False) -> bool:
        return self.run(
            self.queues[gateway].open(
                batch.name,
                round=batch.round,
                total=SIZE,
                priority_stat=batch.stat,
                due_s=batch.due_s,
                hard_due_s=1.0 if batch.hard_due_passed and not batch.stopping else None,
                version=VERSION,
                digest=DIGEST,
                fresh=fresh,
                done=done,
            )
        )

    def draw(self, data: st.DataObject) -> tuple[str, Lease]:
        """Any lease there ever was, its worker with it."""
        return data.draw(st.sampled_from(self.leases))

    # Gateways.

    @rule(gateway=GATEWAYS, name=BATCHES, count=st.integers(1, SIZE), lost=LOST)
    def submit(self, gateway: str, name: str, count: int, lost: bool) -> None:
        batch = self.model.batches[name]
        indices = [index for index in batch.indices if index < count]
        call = self.queues[gateway].submit(name, indices, more=count < SIZE)
        if not batch.known:
            with pytest.raises(Unavailable):
                self.run(call)
            return
        expected = self.model.submit(name, count)
        if lost:
            self.lose(call)
        else:
            assert self.run(call) == expected

    @rule(gateway=GATEWAYS, name=BATCHES, state=st.sampled_from(["CANCELLED", "EXPIRED"]), lost=LOST)
    def stop(self, gateway: str, name: str, state: str, lost: bool) -> None:
        queue = self.queues[gateway]
        expected = self.model.stop(name, state)
        call = queue.cancel(name) if state == "CANCELLED" else queue.expire(name)
        if lost:
            self.lose(call)
        else:
            assert self.run(call) == expected

    @rule(name=BATCHES)
    def the_hard_due_time_passes(self, name: str) -> None:
        batch = self.model.batches[name]
        if batch.known and not batch.finished:
            batch.hard_due_passed = True
            self.run(self.lane.let_hard_due_pass(name))

    @rule(gateway=GATEWAYS, name=BATCHES, round_off=st.sampled_from([0, 0, 0, 1]), lost=LOST)
    def finish(self, gateway: str, name: str, round_off: int, lost: bool) -> None:
        batch = self.model.batches[name]
        if batch.known and not batch.sealed:
            return  # a finalizer waits until all slides were submitted
        number = batch.round + round_off
        expected = self.model.finish(name, "FAILED", number)
        call = self.queues[gateway].finish(name, "FAILED", expected_round=number)
        if lost:
            self.lose(call)
        else:
            assert self.run(call) == expected

    @rule(gateway=GATEWAYS, name=BATCHES)
    def retry(self, gateway: str, name: str) -> None:
        batch = self.model.batches[name]
        if not batch.finished or not batch.of("FAILED"):
            return
        batch.hard_due_passed = False
        self.model.retry(name)
        assert self.open(gateway, batch, _done(batch))
        assert not self.open("g1" if gateway == "g2" else "g2", batch, _done(batch))

    @rule(sweeper=GATEWAYS, lost=LOST)
    def every_lease_runs_out(self, sweeper: str, lost: bool) -> None:
        self.run(self.lane.let_leases_run_out())
        requeued, condemned = self.model.reclaim(sweeper)
        call = self.queues[sweeper].reclaim(sweeper)
        if lost:
            self.lose(call)
            return
        found = self.run(call)
        assert found.requeued == requeued
        expected = {(batch.name, slide.index): slide for batch, slide in condemned}
        assert {(lease.batch, lease.index) for lease in found.condemned} == set(expected)
        for lease in found.condemned:
            expected[lease.batch, lease.index].token = lease.token
            self.leases.append((sweeper, lease))

    @rule(gateway=GATEWAYS, name=BATCHES)
    def audit(self, gateway: str, name: str) -> None:
        call = self.queues[gateway].audit(name, range(SIZE))
        if self.model.batches[name].known:
            assert self.run(call) == 0
        else:
            with pytest.raises(Unavailable):
                self.run(call)

    @rule(gateway=GATEWAYS, name=BATCHES, data=st.data())
    def a_slide_is_in_no_place_or_in_two_until_an_audit(self, gateway: str, name: str, data: st.DataObject) -> None:
        batch = self.model.batches[name]
        if not (found := batch.of("WAITING", "LEASED")):
            return
        slide = data.draw(st.sampled_from(found))
        entry = f"{name}/{slide.index:06d}"
        if slide.state == "WAITING":
            self.run(self.lane.redis.zrem(self.lane.key("ready"), entry))
            batch.put_back(slide)
        else:
            self.run(self.lane.redis.zadd(self.lane.key("ready"), {entry: 1.0}))
        assert self.run(self.queues[gateway].audit(name, range(SIZE))) == 1

    @rule(gateway=GATEWAYS, name=BATCHES)
    def renumber(self, gateway: str, name: str) -> None:
        batch = self.model.batches[name]
        batch.jumps += batch.known and not batch.finished
        self.run(self.queues[gateway].renumber(name))

    # Workers.

    @rule(worker=WORKERS, n=st.integers(1, 3), idle=st.booleans(), stat_only=st.booleans(), lost=LOST)
    def lease(self, worker: str, n: int, idle: bool, stat_only: bool, lost: bool) -> None:
        expected = self.model.lease(worker, n, idle=idle, stat_only=stat_only)
        call = self.queues[worker].lease(worker, n, idle=idle, stat_only=stat_only)
        if lost:
            self.lose(call)
            self.model.unanswered[worker] = [(batch, slide, slide.token) for batch, slide in expected]
            return
        leases = self.run(call)
        assert [(lease.batch, lease.index) for lease in leases] == [(batch.name, s.index) for batch, s in expected]
        for lease, (batch, slide) in zip(leases, expected, strict=True):
            assert (lease.attempts, lease.crashes, lease.alone) == (slide.attempts, slide.crashes, slide.crashes > 0)
            assert (lease.round, lease.stat) == (batch.round, batch.stat)
            slide.token = lease.token
            self.leases.append((worker, lease))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), states=st.lists(st.sampled_from(["SUCCEEDED", "FAILED"]), min_size=1, max_size=3), lost=LOST)
    def complete(self, data: st.DataObject, states: list[str], lost: bool) -> None:
        worker, first = self.draw(data)
        mine = [lease for name, lease in self.leases if name == worker]
        others = data.draw(st.lists(st.sampled_from(mine), max_size=len(states) - 1)) if len(states) > 1 else []
        settled = [Settlement(lease, state) for lease, state in zip([first, *others], states, strict=False)]
        expected = [
            Completion(*self.model.complete(worker, one.lease.batch, one.lease.index, one.lease.token, one.state))
            for one in settled
        ]
        call = self.queues[worker].complete_many(worker, settled)
        if lost:
            self.lose(call)
        else:
            assert self.run(call) == expected

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), crash=st.booleans(), delay_s=st.sampled_from([0.0, 60.0]), lost=LOST)
    def fail(self, data: st.DataObject, crash: bool, delay_s: float, lost: bool) -> None:
        worker, lease = self.draw(data)
        charge = {"crash": crash, "delayed": delay_s > 0}
        expected = self.model.fail(worker, lease.batch, lease.index, lease.token, **charge)
        call = self.queues[worker].fail(lease, worker, crash=crash, delay_s=delay_s)
        if lost:
            self.lose(call)
        else:
            assert self.run(call) == expected

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), lost=LOST)
    def release(self, data: st.DataObject, lost: bool) -> None:
        worker, lease = self.draw(data)
        expected = self.model.release(worker, [(lease.batch, lease.index, lease.token)])
        call = self.queues[worker].release([lease], worker)
        if lost:
            self.lose(call)
        else:
            assert self.run(call) == expected

    @rule(worker=WORKERS)
    def renew(self, worker: str) -> None:
        leases = [lease for _, lease in self.leases]
        expected = [self.model.renew(worker, lease.batch, lease.index, lease.token) for lease in leases]
        assert self.run(self.queues[worker].renew(worker, leases)) == expected

    @rule(gateway=GATEWAYS)
    def drain(self, gateway: str) -> None:
        self.model.draining.add("w2")
        self.run(self.queues[gateway].drain("w2"))

    @rule()
    def every_delay_passes(self) -> None:
        self.run(self.lane.let_delays_pass())
        self.model.draining.add("w3")
        self.run(self.lane.queue.drain("w3"))
        assert self.run(self.lane.queue.lease("w3", 1, idle=True)) == []
        self.model.delays_pass(list(self.model.batches))

    # Redis.

    @precondition(lambda self: self.restarts < 2)
    @rule()
    def redis_is_killed_and_started_again(self) -> None:
        self.restarts += 1
        self.run(kill_9(self.server))
        self.run(self.server.start())
        for client in [self.lane.redis, *self.clients.values()]:
            with suppress(Exception):  # connections of before are found to be broken
                self.run(client.ping())
            self.run(client.ping())
        self.run(self._load_scripts())

    @rule(data=st.data())
    def redis_is_flushed_and_rebuilt_by_two_gateways(self, data: st.DataObject) -> None:
        running = [
            slide for batch in self.model.batches.values() for slide in batch.of("LEASED") if not slide.condemned
        ]
        durable = [slide for slide in running if data.draw(st.booleans())]
        stops = {name: batch.stopping for name, batch in self.model.batches.items()}
        self.run(self._forget())
        self.model.flush(durable)
        for worker, lease in self.leases:
            assert not self.run(self.queues[worker].complete(lease, worker, "SUCCEEDED")).accepted
        for name, batch in self.model.batches.items():
            if batch.finished:
                continue
            new = self.model.rebuild(batch)
            assert self.open("g1", batch, _done(batch))
            assert not self.open("g2", batch, _done(batch))
            if batch.stopping:  # the store knows why: nothing may start before
                assert self.run(self.queues["g1"].cancel(name)) == 0
            queued = self.model.submit(name, SIZE)
            assert self.run(self.queues["g2"].submit(name, new)) == queued == len(new)
            assert self.run(self.queues["g1"].submit(name, new)) == 0
            if stops[name] == "EXPIRED":
                self.stop("g1", name, "EXPIRED", lost=False)

    async def _forget(self) -> None:
        if keys := [self.lane.key(name) for name in await self.lane.keys()]:
            await self.lane.redis.delete(*keys)

    # What holds between any two of these.

    @invariant()
    def the_queue_says_what_the_model_says(self) -> None:
        known = [batch for batch in self.model.batches.values() if batch.known]
        self.run(self.lane.check([batch.name for batch in known]))
        drained = []
        for batch in self.model.batches.values():
            if not batch.known:
                assert self.run(self.lane.queue.snapshot(batch.name)) is None
                continue
            seen = self.run(self.lane.snapshot(batch.name))
            said = (seen.queued, seen.running, seen.succeeded, seen.failed, seen.cancelled, seen.expired)
            assert said == (
                len(batch.of("NEW", "WAITING", "DELAYED")),
                *(len(batch.of(state)) for state in ("LEASED", *ENDS)),
            )
            assert (seen.round, seen.finished, seen.submitted) == (batch.round, batch.finished, batch.sealed)
            self.run(self._events_are_right(batch, seen.last_sequence))
            if batch.sealed and not batch.live and not batch.finished:
                drained.append(batch.name)
        assert sorted(self.run(self.lane.queue.drained())) == drained
        depth = self.run(self.lane.queue.depth())
        assert (depth.ready_stat, depth.ready_routine, depth.leased, depth.delayed) == (
            self._count(lambda batch: batch.stat, "WAITING"),
            self._count(lambda batch: not batch.stat, "WAITING"),
            self._count(lambda batch: True, "LEASED"),
            self._count(lambda batch: True, "DELAYED"),
        )

    def _count(self, wanted: Callable[[Batch], bool], state: str) -> int:
        return sum(len(batch.of(state)) for batch in self.model.batches.values() if wanted(batch))

    async def _events_are_right(self, batch: Batch, last: int) -> None:
        events = await self.lane.queue.events(batch.name, 0, 10_000)
        sequences = [event.sequence for event in events]
        if not batch.jumps:
            assert sequences == list(range(1, last + 1))
        steps = [after - before for before, after in itertools.pairwise(sequences)]
        assert all(step >= 1 for step in steps)
        assert sum(step > 1 for step in steps) <= batch.jumps
        ends = Counter(event.index for event in events if event.index >= 0 and event.state in ENDS)
        assert ends == Counter({slide.index: slide.ends for slide in batch.slides if slide.ends}), "I2"


def _done(batch: Batch) -> Done:
    """What the store says has ended: all that is not of this round, and the outcomes of this round."""
    counts = Counter(slide.state for slide in batch.slides)
    return Done(counts["SUCCEEDED"], counts["FAILED"], counts["CANCELLED"], counts["EXPIRED"])


def test_I1_I2_I4_I5_I7_I8_I12_whatever_happens_the_queue_is_as_its_model(server: EmbeddedRedis) -> None:
    class Machine(QueueMachine):
        pass

    Machine.server = server
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
