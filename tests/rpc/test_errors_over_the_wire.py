"""What a client gets when a service fails, over a real socket."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from gramserve import errors
from gramserve.errors import GramserveError, InvalidInput, Reason
from gramserve.rpc.channel import open_channel
from gramserve.rpc.options import MAX_MESSAGE_BYTES
from gramserve.rpc.status import from_rpc_error, to_status
from gramserve.v1 import optimization_pb2, optimizer_service_pb2, optimizer_service_pb2_grpc
from tests.rpc.conftest import GET, UPLOAD, WATCH, Rig


def _raise(error: BaseException) -> Any:
    async def answer(_request: Any) -> Any:
        raise error

    return answer


async def _failure(call: Any) -> GramserveError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_typed_error_arrives_with_all_its_details(rig: Rig) -> None:
    rig.desk.unary = _raise(
        InvalidInput(
            Reason.INVALID_FIELD, "a field is wrong: größer", violations=[("model", "ungültig")], metadata={"a": "b"}
        )
    )
    error = await _failure(rig.get())
    assert isinstance(error, InvalidInput)
    assert error.message == "a field is wrong: größer"
    assert error.violations == (("model", "ungültig"),)
    assert error.metadata == {"a": "b"}
    assert rig.counted(GET, "INVALID_ARGUMENT") == 1


async def test_I10_back_pressure_says_when_to_try_again(rig: Rig) -> None:
    rig.desk.unary = _raise(errors.Exhausted(Reason.QUEUE_FULL, "the queue is full", retry_after_s=1.5))
    error = await _failure(rig.get())
    assert isinstance(error, errors.Exhausted)
    assert error.retry_after_s == 1.5


async def test_an_unknown_exception_becomes_INTERNAL_without_its_message(rig: Rig) -> None:
    rig.desk.unary = _raise(RuntimeError("slide of Jane Doe"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.get()
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "Jane" not in repr(caught.value)
    error = from_rpc_error(caught.value)
    assert error.reason is Reason.INTERNAL
    assert type(error) is GramserveError
    assert rig.counted(GET, "INTERNAL") == 1


async def test_ten_thousand_wrong_fields_arrive_as_one_typed_error(rig: Rig) -> None:
    wrong = [(f"slides[{i}].slide_id", "is a duplicate of an earlier slide") for i in range(10_000)]
    rig.desk.unary = _raise(InvalidInput(Reason.DUPLICATE_SLIDE_ID, "w" * 50_000, violations=wrong))
    error = await _failure(rig.get())
    assert isinstance(error, InvalidInput)
    assert error.reason is Reason.DUPLICATE_SLIDE_ID
    assert error.violations[:2] == tuple(wrong[:2])


async def test_a_message_over_the_limit_is_MESSAGE_TOO_LARGE(rig: Rig) -> None:
    request = optimizer_service_pb2.CreateOptimizationRequest(optimization_id="x" * (MAX_MESSAGE_BYTES + 1))
    error = await _failure(rig.stub.CreateOptimization(request))
    assert isinstance(error, InvalidInput)
    assert error.reason is Reason.MESSAGE_TOO_LARGE
    assert await rig.get()


async def test_a_message_over_what_the_transport_takes_is_MESSAGE_TOO_LARGE_too(rig: Rig) -> None:
    request = optimizer_service_pb2.CreateOptimizationRequest(optimization_id="x" * (2 * MAX_MESSAGE_BYTES + 1))
    error = await _failure(rig.stub.CreateOptimization(request))
    assert error.reason is Reason.MESSAGE_TOO_LARGE
    assert await rig.get()


async def test_a_stream_that_fails_keeps_what_it_sent_and_ends_typed(rig: Rig) -> None:
    async def stream(_request: Any) -> AsyncIterator[Any]:
        yield optimizer_service_pb2.WatchOptimizationResponse()
        raise errors.Unavailable(Reason.QUEUE_UNAVAILABLE, "Redis is gone", retry_after_s=1)

    rig.desk.stream = stream
    call = rig.watch()
    assert await call.read() == optimizer_service_pb2.WatchOptimizationResponse()
    assert (await _failure(call.read())).reason is Reason.QUEUE_UNAVAILABLE
    assert rig.counted(WATCH, "UNAVAILABLE") == 1


async def test_an_upload_that_is_refused_early_ends_typed(rig: Rig) -> None:
    async def upload(requests: Any) -> Any:
        async for _ in requests:
            raise InvalidInput(Reason.UPLOAD_TOO_LARGE, "too large")

    async def chunks() -> AsyncIterator[Any]:
        for _ in range(100):
            yield optimizer_service_pb2.UploadFileRequest(chunk=b"x" * 1000)

    rig.desk.upload = upload
    error = await _failure(rig.stub.UploadFile(chunks()))
    assert error.reason is Reason.UPLOAD_TOO_LARGE
    assert rig.counted(UPLOAD, "INVALID_ARGUMENT") == 1


async def test_a_call_that_the_service_does_not_have_is_UNKNOWN_METHOD(rig: Rig) -> None:
    call: Any = rig.channel.unary_unary("/gramserve.v1.OptimizerService/Frobnicate")
    assert (await _failure(call(b""))).reason is Reason.UNKNOWN_METHOD


async def test_a_service_that_is_not_there_is_SERVICE_UNAVAILABLE() -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else can take it and nobody answers
        taken.bind(("127.0.0.1", 0))
        async with open_channel(f"127.0.0.1:{taken.getsockname()[1]}") as channel:
            stub: Any = optimizer_service_pb2_grpc.OptimizerServiceStub(channel)
            error = await _failure(stub.GetOptimization(optimizer_service_pb2.GetOptimizationRequest()))
    assert isinstance(error, errors.Unavailable)
    assert error.reason is Reason.SERVICE_UNAVAILABLE


async def test_a_call_that_takes_too_long_is_SERVICE_UNAVAILABLE_for_the_caller(rig: Rig) -> None:
    async def never(_request: Any) -> Any:
        await asyncio.Event().wait()

    rig.desk.unary = never
    request = optimizer_service_pb2.GetOptimizationRequest()
    error = await _failure(rig.stub.GetOptimization(request, timeout=0.2))
    assert isinstance(error, errors.Unavailable)
    assert error.reason is Reason.SERVICE_UNAVAILABLE


async def test_a_status_that_a_proxy_rewrote_is_still_an_error_and_no_crash(rig: Rig) -> None:
    """The details say NOT_FOUND while the code on the wire says something else."""
    status = grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE,
        grpc.aio.Metadata(),
        grpc.aio.Metadata(
            ("grpc-status-details-bin", _details(errors.NotFound(Reason.UNKNOWN_BATCH, "no such batch")))
        ),
        details="upstream reset",
    )
    assert from_rpc_error(status).reason is Reason.SERVICE_UNAVAILABLE


def _details(error: GramserveError) -> bytes:
    return bytes(to_status(error).SerializeToString())


async def test_a_success_is_counted_and_timed(rig: Rig) -> None:
    assert (await rig.get()) == optimization_pb2.Optimization(name="optimizations/answered")
    assert rig.counted(GET, "OK") == 1
    assert rig.metrics.registry.get_sample_value("gramserve_rpc_seconds_count", {"method": GET}) == 1
