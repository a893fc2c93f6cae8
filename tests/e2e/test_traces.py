"""Traces of the whole stack, as a receiver of OpenTelemetry gets them: connected, complete, and of no patient."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from gramserve import tracing
from gramserve.client import GramserveClient
from gramserve.errors import Unsafe
from gramserve.settings import SharedSettings
from gramserve.tls.options import TlsOptions
from gramserve.tls.service import Tls
from gramserve.v1.slide_batch_pb2 import SlideBatch
from tests.artifacts import coloured_file
from tests.doors.laboratory import Laboratory
from tests.e2e.running import running
from tests.waiting import HANGS_S

service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
STEPS = ["load", "fetch", "decode", "tile", "infer", "aggregate"]


class Receiver:
    """What came in, message by message."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.port = 0

    async def Export(self, request: Any, context: Any) -> Any:
        self.messages.append(request)
        return service.ExportTraceServiceResponse()

    def spans(self) -> list[tuple[str, Any]]:
        """The service and the span, of all."""
        return [
            (next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name"), span)
            for message in self.messages
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@asynccontextmanager
async def receiving(tls: TlsOptions | None = None) -> AsyncIterator[Receiver]:
    """An OTLP receiver on the loopback, in plain text or by TLS."""
    receiver, server = Receiver(), grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(
        receiver.Export,
        request_deserializer=service.ExportTraceServiceRequest.FromString,
        response_serializer=service.ExportTraceServiceResponse.SerializeToString,
    )
    name = "opentelemetry.proto.collector.trace.v1.TraceService"
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": handler}),))
    if tls is None:
        receiver.port = server.add_insecure_port("127.0.0.1:0")
    else:
        pair = Path(tls.key_file).read_bytes(), Path(tls.cert_file).read_bytes()
        receiver.port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    await server.start()
    try:
        yield receiver
    finally:
        await server.stop(None)


async def _run_one(up: Any, slide_id: str) -> str:
    async with GramserveClient(up.address("gateway"), laboratory="st-elsewhere") as client:
        slide = await client.upload_slide(slide_id, [coloured_file("GNR")])
        batch = await client.create_batch([slide], model="models/gram")
        done = await client.wait_for_batch(batch.name)
        assert done.state == SlideBatch.STATE_SUCCEEDED
        name: str = batch.name
        return name


async def test_one_slide_is_one_connected_trace_through_gateway_queue_worker_and_child(tmp_path: Path) -> None:
    async with receiving() as receiver:
        endpoint = f"http://127.0.0.1:{receiver.port}"
        variables = {"GRAMSERVE_TRACES_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        before = time.time_ns()
        async with running(tmp_path / "data", "--workers", "1", environment=variables) as up:
            name = await _run_one(up, "PATIENT-4711")
        after = time.time_ns()
        spans = receiver.spans()
    create = next(span for _, span in spans if span.name.endswith("/CreateSlideBatch"))
    trace = [(where, span) for where, span in spans if span.trace_id == create.trace_id]
    by_id = {span.span_id: span for _, span in trace}
    assert len(by_id) == len(trace)
    assert not create.parent_span_id
    # Connected: every other span has its parent here, and lies within the time of the test.
    assert all(span.parent_span_id in by_id for _, span in trace if span is not create)
    assert all(before <= span.start_time_unix_nano <= span.end_time_unix_nano <= after for _, span in trace)

    def parent(child: str) -> str:
        [found] = [span for _, span in trace if span.name == child]
        return str(by_id[found.parent_span_id].name)

    assert parent("slide") == parent("deliver") == create.name
    assert {parent(part) for part in ("queue", "run", "store", "complete")} == {"slide"}
    assert [parent(step) for step in STEPS] == ["run"] * len(STEPS)
    assert {where for where, _ in trace} == {"gramserve-gateway", "gramserve-worker"}
    [slide] = [span for _, span in trace if span.name == "slide"]
    said = {a.key: a.value.string_value or a.value.int_value or a.value.bool_value for a in slide.attributes}
    assert said["gramserve.model"] == "gram"
    assert said["gramserve.state"] == "SUCCEEDED"
    assert said["gramserve.attempt"] == 1
    # Nothing that names a patient, a laboratory, a batch or a place.
    whole = b"".join(message.SerializeToString() for message in receiver.messages)
    for secret in ("PATIENT-4711", "st-elsewhere", name.rpartition("/")[2], str(tmp_path), "Traceback"):
        assert secret.encode() not in whole


async def test_a_callers_trace_goes_on_and_what_it_did_not_want_recorded_is_not(tmp_path: Path) -> None:
    async with receiving() as receiver:
        variables = {"GRAMSERVE_TRACES_ENDPOINT": f"http://127.0.0.1:{receiver.port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        async with (
            running(tmp_path / "data", "--workers", "1", environment=variables) as up,
            grpc.aio.insecure_channel(up.address("gateway")) as channel,
        ):
            list_models = channel.unary_unary("/gramserve.v1.ModelService/ListModels")
            for trace, flags in (("a" * 32, "01"), ("b" * 32, "00"), ("JANE DOE", "01")):
                await list_models(b"", metadata=(("traceparent", f"00-{trace}-{'c' * 16}-{flags}"),))
        spans = [span for _, span in receiver.spans() if span.name.endswith("/ListModels")]
    traces = [span.trace_id.hex() for span in spans]
    assert traces.count("a" * 32) == 1
    assert "b" * 32 not in traces
    assert len(traces) == 2  # what is no traceparent begins a trace of its own
    assert spans[traces.index("a" * 32)].parent_span_id.hex() == "c" * 16


async def test_a_receiver_is_reached_by_TLS_and_only_one_that_our_CA_knows(tmp_path: Path) -> None:
    ours, theirs = Laboratory(tmp_path / "ours"), Laboratory(tmp_path / "theirs")
    async with receiving(ours.serving()) as receiver:
        for laboratory, received in ((theirs, []), (ours, ["one"])):
            endpoint = f"https://localhost:{receiver.port}"
            settings = SharedSettings(traces_endpoint=endpoint, tls_ca_file=laboratory.file("ca.pem"))
            tracer = tracing.open_tracer(settings, "s", Tls())
            tracer.receive("one", "").end()
            await asyncio.to_thread(tracer.close)
            assert [span.name for _, span in receiver.spans()] == received


async def test_a_receiver_that_is_away_costs_no_slide_and_keeps_nobody_from_stopping(tmp_path: Path) -> None:
    variables = {"GRAMSERVE_TRACES_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    async with running(tmp_path / "data", "--workers", "1", environment=variables) as up:
        await _run_one(up, "s1")
        assert await up.stop() == 0
        assert "uncaught" not in up.said


def test_traces_are_off_by_default_and_then_nothing_that_delivers_is_loaded() -> None:
    code = (
        "import sys, gateway.app, inference_svc.app, optimizer_svc.app\n"
        "from gramserve import tracing\n"
        "from gramserve.settings import SharedSettings\n"
        "from gramserve.tls.service import Tls\n"
        "assert tracing.open_tracer(SharedSettings(), 's', Tls()) is tracing.OFF\n"
        # redis-py loads the SDK by itself where it is installed.
        "assert not {'gramserve.tracing.otlp', 'opentelemetry.exporter'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANGS_S)


def test_spans_leave_this_machine_encrypted_only() -> None:
    settings = SharedSettings(traces_endpoint="http://collector.hospital.example:4317")
    with pytest.raises(Unsafe, match="plain text"):
        tracing.open_tracer(settings, "s", Tls())


def test_without_the_extra_a_service_that_shall_trace_refuses_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gramserve.tracing.otlp", None)
    settings = SharedSettings(traces_endpoint="http://127.0.0.1:4317")
    with pytest.raises(Unsafe, match=r"gramserve\[tracing\]"):
        tracing.open_tracer(settings, "s", Tls())
