"""gramserve status: how the night goes, live in a terminal."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from google.protobuf.json_format import MessageToJson
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from gramserve.cli import connection
from gramserve.cli.connection import Gateway
from gramserve.cli.speech import SLIDES_FAILED, console, run, sentence
from gramserve.cli.status_view import alarms, status_view
from gramserve.client import GramserveClient, Patience
from gramserve.errors import GramserveError, Reason
from gramserve.night.window import Night
from gramserve.v1.operations_pb2 import SystemStatus

PASSING = frozenset({Reason.SERVICE_UNAVAILABLE, Reason.QUEUE_UNAVAILABLE, Reason.STORE_UNAVAILABLE})
"""Errors that a live view waits for to go away."""
_PATIENCE = Patience(total_s=1.0)
"""Whoever looks wants to know soon that there is no answer."""


def status(
    once: Annotated[bool, typer.Option("--once", help="Show it once. Exit code 1: something needs a person.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it once as JSON, with the same exit code.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=3600.0)] = 2.0,
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Show how the night goes: slides, when they will be done, workers, failures. Callers need the role operator."""
    live = not once and not as_json
    if live:
        run(_follow(gateway, interval), unreachable=connection.no_gateway(gateway))
        return
    found = run(_look(gateway), unreachable=connection.no_gateway(gateway))
    if as_json:
        typer.echo(MessageToJson(found, always_print_fields_with_no_presence=True))
    else:
        console().print(status_view(found, gateway))
    if alarms(found):
        raise typer.Exit(SLIDES_FAILED)


async def _look(address: str) -> SystemStatus:
    async with connection.gateway(address, patience=_PATIENCE) as client:
        return await _ask(client)


async def _follow(address: str, interval_s: float) -> None:
    """Until Ctrl-C."""
    async with connection.gateway(address, patience=_PATIENCE) as client:
        found, failure = await _ask(client), ""
        with Live(console=console(), auto_refresh=False, screen=console().is_terminal) as live:
            while True:
                view = status_view(found, address)
                live.update(view if not failure else _old(found, failure, address), refresh=True)
                await asyncio.sleep(interval_s)
                try:
                    found, failure = await _ask(client), ""
                except GramserveError as error:
                    if error.reason not in PASSING:
                        raise
                    failure = sentence(error)


async def _ask(client: GramserveClient) -> SystemStatus:
    """With the batches of the night that `gramserve report` would tell of."""
    return await client.system_status(datetime.fromtimestamp(Night.last(time.time()).begin, UTC))


def _old(found: SystemStatus, failure: str, address: str) -> RenderableType:
    """What was seen last, and that it is old."""
    seen = found.time.ToDatetime(UTC).astimezone()
    return Group(Text(f"no answer since {seen:%H:%M:%S}: {failure}", style="bold red"), status_view(found, address))
