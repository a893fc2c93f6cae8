"""How the command line talks: results on standard output, one plain line for an error, never a traceback."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from google.protobuf.descriptor import EnumDescriptor
from rich.console import Console

from gramserve import log
from gramserve.errors import GramserveError, InvalidInput, Reason

T = TypeVar("T")

SLIDES_FAILED = 1
"""Exit code when everything worked but some slides failed."""
REFUSED = 2
"""Exit code when a command could not do what it was asked."""
INTERRUPTED = 130


def console() -> Console:
    """Where results go; wide enough for a table when it is not a terminal."""
    # No markup: the ids of slides are shown as they are.
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else 160)


def side_console() -> Console:
    """Where progress is shown, so that output can be piped on."""
    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def refuse(message: str) -> typer.Exit:
    """Say why in one line on standard error; raise what this returns."""
    typer.echo(f"gramserve: {' '.join(message.split())}", err=True)
    return typer.Exit(REFUSED)


@contextmanager
def plain_errors(unreachable: str = "") -> Iterator[None]:
    """Turns every failure inside into one line and an exit code; `unreachable` is said of a silent service."""
    try:
        yield
    except GramserveError as error:
        if error.reason is Reason.SERVICE_UNAVAILABLE and unreachable:
            raise refuse(f"{unreachable} ({error.reason})") from None
        raise refuse(sentence(error)) from None
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except OSError as error:
        # strerror and the file name are what the person typed; nothing else of the exception is shown.
        place = f"{error.filename}: " if error.filename else ""
        raise refuse(f"{place}{(error.strerror or type(error).__name__).lower()}") from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:  # the last line of defence against tracebacks
        raise refuse(f"a fault in gramserve: {log.describe(error)} ({Reason.INTERNAL})") from None


def sentence(error: GramserveError) -> str:
    """The error in one line: what is wrong, which fields, and the reason for programs."""
    text = error.message
    if isinstance(error, InvalidInput):
        more = [f"{field}: {what}" for field, what in error.violations[:3] if what not in text]
        text = "; ".join([text, *more])
    return f"{text} ({error.reason})"


def word(enum: EnumDescriptor, number: int, prefix: str) -> str:
    """The name of a value of an enum, without `prefix`, as people read it: "partially succeeded".

    One that only a newer release knows is "unknown".
    """
    value = enum.values_by_number.get(number)
    return "unknown" if value is None else value.name.removeprefix(prefix).replace("_", " ").lower()


def run(work: Coroutine[Any, Any, T], unreachable: str = "") -> T:
    """Run the coroutine of a command, its failures as plain lines."""
    with plain_errors(unreachable):
        return asyncio.run(work)
