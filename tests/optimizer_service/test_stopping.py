"""Cancelling optimizations and stopping the service."""

from __future__ import annotations

import asyncio

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gramserve.errors import PreconditionFailed, Reason
from gramserve.rpc.channel import open_channel
from gramserve.sandbox import missing
from optimizer_svc.app import App
from tests.optimizer_service.conftest import SCRIPTED, Bench, Caller, State, gone, id_of, refused
from tests.waiting import until


async def test_a_waiting_optimization_is_cancelled_at_once(bench: Bench, caller: Caller) -> None:
    first, second = await caller.create("waits"), await caller.create("waits")
    await caller.started(first.name)
    cancelled = await caller.cancel(second.name)
    assert cancelled.state == State.STATE_CANCELLED
    assert cancelled.HasField("end_time")
    assert bench.runs(id_of(second.name)) == 0
    await caller.cancel(first.name)


async def test_a_running_optimization_stops_at_its_next_step(bench: Bench, caller: Caller) -> None:
    created = await caller.create("waits")
    await caller.started(created.name)
    pid = int((bench.folder / "work" / id_of(created.name) / "run" / "pid").read_text())
    assert (await caller.cancel(created.name)).state == State.STATE_RUNNING
    done = await caller.ended(created.name)
    assert done.state == State.STATE_CANCELLED
    assert not done.HasField("error")
    await gone(pid)


async def test_one_that_does_not_stop_is_killed_after_a_grace(bench: Bench) -> None:
    async with bench.service(stop_grace_s=0.2) as caller:
        created = await caller.create("does_not_listen")
        await caller.started(created.name)
        await caller.cancel(created.name)
        assert (await caller.ended(created.name)).state == State.STATE_CANCELLED


async def test_a_job_starts_no_process_or_where_the_kernel_lets_it_that_ends_with_it(
    bench: Bench, caller: Caller
) -> None:
    created = await caller.create("has_children")
    await caller.started(created.name)
    path = bench.folder / "work" / id_of(created.name) / "run" / "child"
    child = await until(lambda: path.exists() and path.read_text())
    assert (child == "refused") is ("seccomp" not in missing())
    await caller.cancel(created.name)
    await caller.ended(created.name)
    if child != "refused":
        await gone(int(child))


async def test_to_cancel_twice_is_to_cancel_once(caller: Caller) -> None:
    created = await caller.create("waits")
    await caller.started(created.name)
    await asyncio.gather(caller.cancel(created.name), caller.cancel(created.name))
    assert (await caller.ended(created.name)).state == State.STATE_CANCELLED


async def test_an_ended_optimization_cannot_be_cancelled(caller: Caller) -> None:
    created = await caller.create("finishes")
    await caller.ended(created.name)
    error = await refused(caller.cancel(created.name))
    assert isinstance(error, PreconditionFailed)
    assert error.reason is Reason.OPTIMIZATION_TERMINAL


async def test_a_wish_to_cancel_outlives_the_service_that_heard_it(bench: Bench) -> None:
    async with bench.service() as caller:
        created = await caller.create("waits")
        await caller.started(created.name)
    await bench.store.create(f"{created.name}/cancel.json", b'{"time":1.0}')
    async with bench.service() as caller:
        assert (await caller.ended(created.name)).state == State.STATE_CANCELLED


async def test_I14_a_stopping_service_gives_its_job_back_uncharged(bench: Bench) -> None:
    async with bench.service() as caller:
        created = await caller.create("waits_once")
        await caller.started(created.name)
    async with bench.queue() as queue:
        depth = await queue.depth()
        assert (depth.ready_routine, depth.leased, depth.delayed) == (1, 0, 0)
        (lease,) = await queue.lease("somebody", 1, idle=True)
        assert (lease.attempts, lease.crashes) == (0, 0)
        await queue.release([lease], "somebody")
    async with bench.service() as caller:
        assert (await caller.ended(created.name)).state == State.STATE_SUCCEEDED


async def test_I14_health_says_NOT_SERVING_before_the_port_closes(bench: Bench) -> None:
    app = App(bench.settings(stop_grace_s=10.0), job_command=SCRIPTED)
    await app.start()
    async with open_channel(f"127.0.0.1:{app.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="gramserve.v1.OptimizerService"))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        stopping = asyncio.create_task(app.stop())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await stopping


async def test_I14_a_watcher_does_not_hold_up_the_end_for_longer_than_the_grace(bench: Bench) -> None:
    async with bench.service(stop_grace_s=0.2) as caller:
        created = await caller.create("waits")
        watch = caller.watch(created.name)
        await watch.read()
        await caller.app.stop()
        assert await watch.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_service_starts_and_stops_many_times(bench: Bench) -> None:
    for _ in range(5):
        async with bench.service():
            pass
