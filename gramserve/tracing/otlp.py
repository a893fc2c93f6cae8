"""Traces by OpenTelemetry, delivered over OTLP/gRPC."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer

from gramserve import log
from gramserve.errors import Reason, Unsafe
from gramserve.metrics import installed_version
from gramserve.tracing import NOTHING, Span

_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_DELIVER_S = 2
_MOST_WAITING = 8192
_SAMPLED = 1


class OtlpTracer:
    """Delivers to `endpoint` (host:port) in the background; what cannot be delivered is dropped, and said once.

    `share` (0 to 1) of the traces that begin here are recorded; of others, what their beginner decided. `secure`: by
    TLS, verified with `ca_file` or the CAs of the system. Raises Unsafe for a file that cannot be read.
    """

    def __init__(self, endpoint: str, service: str, *, share: float, secure: bool, ca_file: str = "") -> None:
        # What they say at every failed delivery is said here, once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporter = OTLPSpanExporter(
            endpoint=endpoint,
            insecure=not secure,
            credentials=grpc.ssl_channel_credentials(_read(ca_file)) if secure else None,
            timeout=_DELIVER_S,
        )
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource({"service.name": service, "service.version": installed_version()}),
            shutdown_on_exit=False,
        )
        self._processor = BatchSpanProcessor(_SaysOnce(exporter), max_queue_size=_MOST_WAITING)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("gramserve")

    def receive(self, name: str, parent: str) -> Span:
        """What somebody asked of us."""
        return _begun(self._tracer, name, _remote(parent), SpanKind.SERVER, None)

    def go_on(self, name: str, parent: str, *, start_s: float | None = None) -> Span:
        """Part of the trace `parent`."""
        context = _remote(parent)
        return NOTHING if context is None else _begun(self._tracer, name, context, SpanKind.CONSUMER, start_s)

    def close(self) -> None:
        """Deliver what is left, for two seconds at most: a receiver that is away keeps nobody from stopping."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(_DELIVER_S)


class _OtlpSpan:
    """A span of OpenTelemetry."""

    def __init__(self, tracer: OtelTracer, span: OtelSpan) -> None:
        self._tracer = tracer
        self._span = span

    @property
    def context(self) -> str:
        """Its W3C traceparent."""
        known = self._span.get_span_context()
        return f"00-{known.trace_id:032x}-{known.span_id:016x}-{known.trace_flags:02x}"

    def set(self, **attributes: str | int | float | bool) -> None:
        """Say more about it; dots in names are written as two underscores."""
        self._span.set_attributes({name.replace("__", "."): value for name, value in attributes.items()})

    def part(self, name: str, start_s: float, end_s: float, **attributes: str | int | float | bool) -> Span:
        """A part of it that has ended."""
        around = set_span_in_context(self._span)
        made = _OtlpSpan(self._tracer, self._tracer.start_span(name, around, start_time=_ns(start_s)))
        made.set(**attributes)
        made._span.end(_ns(max(start_s, end_s)))
        return made

    def end(self, *, failed: str = "") -> None:
        """It ends now."""
        if not self._span.is_recording():
            return
        if failed:
            self._span.set_status(Status(StatusCode.ERROR))
            self._span.set_attribute("error.type", failed)
        self._span.end()


class _SaysOnce(SpanExporter):
    """Delivers by `exporter`, and logs when that begins to fail and when it works again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._failing = False
        self._log = log.get()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Deliver some spans."""
        result = self._exporter.export(spans)
        failing = result is not SpanExportResult.SUCCESS
        if failing and not self._failing:
            self._log.warning("traces cannot be delivered; they are dropped")
        elif self._failing and not failing:
            self._log.info("traces are delivered again")
        self._failing = failing
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()


def _begun(tracer: OtelTracer, name: str, parent: SpanContext | None, kind: SpanKind, start_s: float | None) -> Span:
    around = set_span_in_context(NonRecordingSpan(parent)) if parent is not None else None
    span = tracer.start_span(name, around, kind=kind, start_time=None if start_s is None else _ns(start_s))
    return _OtlpSpan(tracer, span) if span.is_recording() else NOTHING


def _remote(traceparent: str) -> SpanContext | None:
    """The span of another process; None for what is no traceparent."""
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    trace, span, flags = (int(part, 16) for part in found.groups())
    if not trace or not span:
        return None
    return SpanContext(trace, span, is_remote=True, trace_flags=TraceFlags(flags & _SAMPLED))


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _read(ca_file: str) -> bytes | None:
    try:
        return Path(ca_file).read_bytes() if ca_file else None
    except OSError:
        raise Unsafe(Reason.INVALID_SETTINGS, "the file of GRAMSERVE_TLS_CA_FILE cannot be read") from None
