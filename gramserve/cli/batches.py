"""gramserve watch, results, cancel and retry: what can be done with a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gramserve.cli import connection
from gramserve.cli.calls import check_output
from gramserve.cli.connection import Gateway, Laboratory
from gramserve.cli.following import counts_text, follow, show_results
from gramserve.cli.speech import SLIDES_FAILED, console, plain_errors, run
from gramserve.v1.slide_batch_pb2 import SlideBatch

Batch = Annotated[
    str, typer.Argument(help="Name of the batch (laboratories/L/slideBatches/B), L/B, or B.", metavar="BATCH")
]


def watch(batch: Batch, laboratory: Laboratory = connection.LABORATORY, gateway: Gateway = connection.GATEWAY) -> None:
    """Follow a batch to its end. Exit code 1: some slides have no call."""
    run(_watch(gateway, laboratory, batch), unreachable=connection.no_gateway(gateway))


def results(
    batch: Batch,
    laboratory: Laboratory = connection.LABORATORY,
    output: Annotated[
        Path | None, typer.Option(help="Write the slides there, one JSON object a line.", metavar="FILE.jsonl")
    ] = None,
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Show the calls of a batch, as far as there are any."""
    with plain_errors():
        check_output(output)
    run(_results(gateway, laboratory, batch, output), unreachable=connection.no_gateway(gateway))


def cancel(batch: Batch, laboratory: Laboratory = connection.LABORATORY, gateway: Gateway = connection.GATEWAY) -> None:
    """Cancel a batch: slides that run finish, the others never start."""
    run(_cancel(gateway, laboratory, batch), unreachable=connection.no_gateway(gateway))


def retry(
    batch: Batch,
    laboratory: Laboratory = connection.LABORATORY,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the batch to its end.")] = False,
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Run the failed slides of a batch again."""
    run(_retry(gateway, laboratory, batch, wait), unreachable=connection.no_gateway(gateway))


async def _watch(address: str, laboratory: str, name: str) -> None:
    out = console()
    async with connection.gateway(address, laboratory) as client:
        batch = await follow(client, name)
    out.print(counts_text(batch))
    if batch.state != SlideBatch.STATE_SUCCEEDED:
        raise typer.Exit(SLIDES_FAILED)


async def _results(address: str, laboratory: str, name: str, output: Path | None) -> None:
    async with connection.gateway(address, laboratory) as client:
        await show_results(client, await client.get_batch(name), console(), output)


async def _cancel(address: str, laboratory: str, name: str) -> None:
    async with connection.gateway(address, laboratory) as client:
        console().print(counts_text(await client.cancel_batch(name)))


async def _retry(address: str, laboratory: str, name: str, wait: bool) -> None:
    async with connection.gateway(address, laboratory) as client:
        batch = await client.retry_batch(name)
    console().print(counts_text(batch))
    if wait:
        await _watch(address, laboratory, batch.name)
