"""Traces: where the time of a slide went, across gateway, queue, worker and child; off unless an operator asks.

A span has times, a name and attributes from closed sets, and never a slide id, a path or a name of a laboratory.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

from gramserve.errors import Reason, Unsafe
from gramserve.settings import SharedSettings
from gramserve.tls.service import Tls

__all__ = ["OFF", "Span", "Tracer", "current", "open_tracer"]


class Span(Protocol):
    """Something that takes time; `context` is its W3C traceparent, "" where nothing is recorded."""

    @property
    def context(self) -> str:
        """What a span in another process names as its parent."""

    def set(self, **attributes: str | int | float | bool) -> None:
        """Say more about it."""

    def part(self, name: str, start_s: float, end_s: float, **attributes: str | int | float | bool) -> Span:
        """A part of it that has ended; times in Unix seconds."""

    def end(self, *, failed: str = "") -> None:
        """It ends now; `failed` is the reason, where it did. Again: nothing."""


class Tracer(Protocol):
    """Begins the spans of one process."""

    def receive(self, name: str, parent: str) -> Span:
        """What somebody asked of us: goes on with the trace `parent` where that is one, else begins a trace."""

    def go_on(self, name: str, parent: str, *, start_s: float | None = None) -> Span:
        """Part of the trace `parent`, since `start_s` (Unix seconds) or now; nothing where `parent` is ""."""

    def close(self) -> None:
        """Deliver what is left, for two seconds at most; blocks."""


class _NoSpan:
    context = ""

    def set(self, **attributes: str | int | float | bool) -> None:
        pass

    def part(self, name: str, start_s: float, end_s: float, **attributes: str | int | float | bool) -> Span:
        return self

    def end(self, *, failed: str = "") -> None:
        pass


class _Off:
    def receive(self, name: str, parent: str) -> Span:
        return NOTHING

    def go_on(self, name: str, parent: str, *, start_s: float | None = None) -> Span:
        return NOTHING

    def close(self) -> None:
        pass


NOTHING: Span = _NoSpan()
OFF: Tracer = _Off()
_CURRENT: ContextVar[str] = ContextVar("trace", default="")


def current() -> str:
    """The traceparent of the RPC that is answered here; "" where it is not traced."""
    return _CURRENT.get()


def enter(span: Span) -> None:
    """`current` is this span from now on, in this task."""
    _CURRENT.set(span.context)


def open_tracer(settings: SharedSettings, service: str, tls: Tls) -> Tracer:
    """As the settings of a service say; OFF where no endpoint is set.

    Raises Unsafe for an endpoint in plain text beyond this machine, and where the extra [tracing] is not installed.
    """
    if not settings.traces_endpoint:
        return OFF
    try:
        from gramserve.tracing.otlp import OtlpTracer  # noqa: PLC0415 - an extra, loaded where it is asked for
    except ImportError:
        raise Unsafe(
            Reason.INVALID_SETTINGS,
            "GRAMSERVE_TRACES_ENDPOINT is set, but OpenTelemetry is not installed; install gramserve[tracing]",
        ) from None
    secure = settings.traces_endpoint.startswith("https://")
    if not secure:
        tls.check_plain_connection("the receiver of traces", settings.traces_endpoint.removeprefix("http://"))
    return OtlpTracer(
        settings.traces_endpoint.partition("://")[2],
        service,
        share=settings.traces_share,
        secure=secure,
        ca_file=settings.tls_ca_file,
    )
