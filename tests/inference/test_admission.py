"""Inference requests are bounded, dropped when nobody waits for them any more, and never suffer from each other."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest

from gramserve.errors import Exhausted, Reason, Unavailable
from gramserve.oip import open_inference_pb2 as pb
from gramserve.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from gramserve.store.records import ImageRecord
from inference_svc.app import App
from inference_svc.protocol import Infer
from inference_svc.work import TimedOut
from tests.inference.bench import Bench
from tests.inference.oip import caller, refusal, tile_request, tiles_of
from tests.waiting import until

REQUEST = tile_request(tiles_of(["GNR"]))


@asynccontextmanager
async def busy(
    bench: Bench, *, children: int = 1, **settings: object
) -> AsyncIterator[tuple[App, GRPCInferenceServiceStub, list[ImageRecord]]]:
    """A worker whose children all wait in the middle of a slide until the test lets them go."""
    version = await bench.publish()
    images = [await bench.field() for _ in range(children)]
    for image in images:
        bench.hold(image)
    async with bench.worker(children=children, **settings) as app, caller(app) as stub:
        await until(lambda: all(child.models for child in app.children.able) and app.children.ready == children)
        await bench.submit(images, version)
        for image in images:
            await bench.held(image)
        yield app, stub, images


def _in_flight(app: App) -> float | None:
    return app.metrics.registry.get_sample_value("gramserve_infer_in_flight")


def _dropped(app: App, cause: str) -> float | None:
    return app.metrics.registry.get_sample_value("gramserve_infer_dropped_total", {"cause": cause})


async def _ran(stub: GRPCInferenceServiceStub) -> int:
    """How many requests children have run."""
    shown = await stub.ModelStatistics(pb.ModelStatisticsRequest(name="gram"))
    return sum(one.execution_count for one in shown.model_stats)


async def test_requests_beyond_the_limit_are_refused_with_the_time_to_try_again(bench: Bench) -> None:
    """I10: what was accepted is answered."""
    async with busy(bench, infer_requests=3) as (app, stub, images):
        accepted = [stub.ModelInfer(REQUEST) for _ in range(3)]
        await until(lambda: _in_flight(app) == 3)
        error = await refusal(stub.ModelInfer(REQUEST))
        assert (type(error), error.reason) == (Exhausted, Reason.QUEUE_FULL)
        assert error.retry_after_s is not None
        assert error.retry_after_s > 0
        assert _dropped(app, "exhausted") == 1
        bench.let_go(images[0])
        for call in accepted:
            assert (await call).model_version == "1"
        await until(lambda: _in_flight(app) == 0)


async def test_bytes_are_bounded_as_well(bench: Bench) -> None:
    many = tile_request(tiles_of(["GNR"] * 200))
    async with busy(bench, infer_bytes=2**20) as (app, stub, images):
        accepted = stub.ModelInfer(many)
        await until(lambda: _in_flight(app) == 1)
        assert (await refusal(stub.ModelInfer(many))).reason == Reason.QUEUE_FULL
        bench.let_go(images[0])
        assert len((await accepted).raw_output_contents[0]) == 200 * 5 * 4


async def test_a_caller_that_cancels_is_dropped_and_no_other_one_notices(bench: Bench) -> None:
    async with busy(bench) as (app, stub, images):
        calls = [stub.ModelInfer(REQUEST) for _ in range(6)]
        await until(lambda: _in_flight(app) == 6)
        for call in calls[::2]:  # some wait in the socket of the child, some in the worker
            call.cancel()
        await until(lambda: _in_flight(app) == 3)
        bench.let_go(images[0])
        for call in calls[1::2]:
            assert (await call).model_version == "1"
        assert await _ran(stub) == 3
        assert _dropped(app, "cancelled") == 3


async def test_I12_a_request_whose_deadline_passed_is_not_begun(bench: Bench) -> None:
    async with busy(bench) as (app, stub, images):
        patient = stub.ModelInfer(REQUEST)
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await stub.ModelInfer(REQUEST, timeout=0.2)
        assert late.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: _in_flight(app) == 1)
        bench.let_go(images[0])
        await patient
        assert await _ran(stub) == 1


async def test_a_request_that_waits_in_a_child_that_dies_is_run_by_another(bench: Bench) -> None:
    async with busy(bench, children=2) as (app, stub, images):
        call = stub.ModelInfer(REQUEST)
        await until(lambda: any(child.infers for child in app.children.able))
        os.kill(next(child.pid for child in app.children.able if child.infers), signal.SIGKILL)
        for image in images:
            bench.let_go(image)
        assert (await call).model_version == "1"


@pytest.mark.parametrize(
    ("ending", "reason"),
    [(TimedOut(300.0), Reason.SLIDE_TIMEOUT), (TimedOut(60.0, cpu=True), Reason.CPU_TIME_EXCEEDED)],
)
async def test_a_request_that_took_too_long_hears_which_time_it_used_up(
    bench: Bench, ending: TimedOut, reason: Reason
) -> None:
    async with busy(bench) as (app, stub, images):
        call = stub.ModelInfer(REQUEST)
        await until(lambda: any(child.infers for child in app.children.able))
        (child,) = app.children.able
        next(ticket for ticket in child.pending.values() if isinstance(ticket.work, Infer)).end(ending)
        error = await refusal(call)
        assert error.reason is reason
        assert f"{ending.limit_s:g} s" in error.message
        bench.let_go(images[0])


async def test_without_a_child_a_request_is_told_to_come_back(bench: Bench) -> None:
    async with busy(bench) as (app, stub, images):
        call = stub.ModelInfer(REQUEST)
        await until(lambda: any(child.infers for child in app.children.able))
        os.kill(app.children.pids[0], signal.SIGKILL)
        error = await refusal(call)
        assert (type(error), error.reason) == (Unavailable, Reason.SERVICE_UNAVAILABLE)
        assert error.retry_after_s is not None
        bench.let_go(images[0])


async def test_I14_a_worker_that_stops_answers_what_it_accepted_and_takes_nothing_new(bench: Bench) -> None:
    async with busy(bench) as (app, stub, images):
        accepted = stub.ModelInfer(REQUEST)
        await until(lambda: _in_flight(app) == 1)
        stopping = asyncio.create_task(app.stop(20.0))

        async def refused() -> bool:
            return not (await stub.ServerReady(pb.ServerReadyRequest())).ready

        await until(refused)
        assert (await refusal(stub.ModelInfer(REQUEST))).reason == Reason.SHUTTING_DOWN
        bench.let_go(images[0])
        assert (await accepted).model_version == "1"
        await stopping
