"""I14: stop leasing, NOT_SERVING, finish or give back, close; nothing is lost and nothing is charged."""

from __future__ import annotations

import asyncio
import signal

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.inference.bench import Bench
from tests.waiting import HANGS_S, until


async def health(port: int, service: str = "") -> int:
    """What the health service on `port` says; 0 of a service that it does not know."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=HANGS_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return 0
        return int(answer.status)


SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_I14_sigterm_lets_the_running_slide_finish_and_gives_the_next_one_back_at_once(bench: Bench) -> None:
    version = await bench.publish()
    images = [await bench.field() for _ in range(5)]
    bench.hold(images[0])
    await bench.submit(images, version)
    async with bench.process(children=1) as worker:
        port = (await worker.logged("ready"))["port"]
        assert await health(port) == SERVING
        await bench.held(images[0])
        await until(lambda: _leased(bench, 2))
        worker.send(signal.SIGTERM)
        await until(lambda: _leased(bench, 1))
        assert await health(port) == NOT_SERVING
        bench.let_go(images[0])
        assert await worker.process.wait() == 0
    snapshot = await bench.snapshot()
    # The slide beside the held one may have begun, and ended, before it: two are leased at once, in no order.
    assert snapshot.running == 0
    assert snapshot.succeeded in {1, 2}
    assert snapshot.succeeded + snapshot.queued == 5
    # One child: between two, a quick slide that was moved may already have begun where it was, and run in both.
    async with bench.worker(children=1):
        outcomes = await bench.ended()
    assert {outcome.attempts for outcome in outcomes.values()} == {1}
    assert [len(bench.runs(image)) for image in images] == [1] * 5


async def test_I14_a_slide_that_does_not_finish_within_the_grace_is_given_back_uncharged(bench: Bench) -> None:
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.process(children=1, stop_grace_s=0.2) as worker:
        await bench.held(image)
        worker.send(signal.SIGTERM)
        assert await worker.process.wait() == 0
    assert await bench.outcomes() == {}
    bench.let_go(image)
    async with bench.worker(children=1):
        assert (await bench.ended())[0].attempts == 1


async def test_I14_signals_to_the_whole_group_do_not_kill_children_in_their_slides(bench: Bench) -> None:
    version = await bench.publish()
    image = await bench.field()
    bench.hold(image)
    await bench.submit([image], version)
    async with bench.worker(children=1) as worker:
        child = await bench.held(image)
        assert worker.children.pids == [child]
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.pidfd_send_signal(_pidfd(child), number)
        bench.let_go(image)
        assert (await bench.ended())[0].attempts == 1
        assert worker.children.pids == [child]


def _pidfd(pid: int) -> int:
    import os

    return os.pidfd_open(pid)


async def test_a_worker_that_is_asked_to_drain_finishes_and_ends(short_bench: Bench) -> None:
    bench = short_bench
    version = await bench.publish()
    images = [await bench.field() for _ in range(3)]
    bench.hold(images[0])
    await bench.submit(images, version)
    async with bench.process(children=1, worker_id="tired") as worker:
        await bench.held(images[0])
        await bench.queue.drain("tired")
        await until(lambda: _leased(bench, 1))
        bench.let_go(images[0])
        assert await worker.process.wait() == 0
    snapshot = await bench.snapshot()
    # As above: the slide that was leased beside the held one may have begun, and ended, before it.
    assert snapshot.running == 0
    assert snapshot.succeeded in {1, 2}
    assert snapshot.succeeded + snapshot.queued == 3


async def test_an_idle_worker_that_is_asked_to_drain_ends(short_bench: Bench) -> None:
    async with short_bench.process(children=1, worker_id="tired") as worker:
        await short_bench.queue.drain("tired")
        assert await asyncio.wait_for(worker.process.wait(), HANGS_S) == 0


async def test_starting_and_stopping_at_once_leaves_nothing_behind(bench: Bench) -> None:
    from inference_svc.app import App

    for _ in range(3):
        app = App(bench.settings())
        await app.start()
        await app.stop()
        assert app.children.pids == []


async def _leased(bench: Bench, slides: int) -> bool:
    return (await bench.queue.depth()).leased == slides
