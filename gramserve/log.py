"""Structured logs: one line an event on standard error, without stack traces and without patient data."""

from __future__ import annotations

import logging
import sys
import threading
from typing import Any

import structlog


def configure(service: str, *, level: str = "INFO", style: str = "json") -> None:
    """Log as `service`; call once, at the start of a process. `style` is "json" or "text"."""
    renderers: list[Any] = (
        [structlog.processors.JSONRenderer()]
        if style == "json"
        else [structlog.dev.ConsoleRenderer(colors=False), _visible]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    # Libraries may put what they were given into their messages: only that they failed, and where, is written.
    logging.basicConfig(level=logging.ERROR, handlers=[_LibraryErrors()], force=True)
    logging.captureWarnings(True)
    sys.excepthook = lambda _type, error, _trace: _uncaught(error)
    threading.excepthook = lambda args: _uncaught(args.exc_value)
    sys.unraisablehook = lambda args: _uncaught(args.exc_value)


def _visible(_logger: Any, _method: str, line: str) -> str:
    """One line of characters that can be seen: what would steer a terminal or forge a second line is written out."""
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in line)


class _LibraryErrors(logging.Handler):
    """Writes the errors that libraries log as lines of ours, without their text and stack trace."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        place = describe(error) if error else f"{record.funcName}, line {record.lineno}"
        get().error("a library reported an error", logger=record.name, error=place)


def _uncaught(error: BaseException | None) -> None:
    if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
        get().error("uncaught", error=describe(error))


def get(**context: Any) -> structlog.typing.FilteringBoundLogger:
    """A logger that adds `context` to every line."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(**context)
    return logger


def describe(error: BaseException) -> str:
    """Type and place of an unexpected error; its message could hold patient data and is left out."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    if place is None:
        return type(error).__name__
    code = place.tb_frame.f_code
    return f"{type(error).__name__} in {code.co_qualname}, line {place.tb_lineno}"
