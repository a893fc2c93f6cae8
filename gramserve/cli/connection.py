"""Which service a command talks to, for which laboratory: options that many commands share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import typer

from gramserve.cli.calling import calling
from gramserve.client import GramserveClient, OptimizerClient, Patience

GATEWAY = "127.0.0.1:50051"
OPTIMIZER = "127.0.0.1:50053"
LABORATORY = "default"
CONNECT_S = 5.0

Gateway = Annotated[
    str,
    typer.Option("--gateway", envvar="GRAMSERVE_CLIENT_GATEWAY", help="Address of the gateway.", metavar="HOST:PORT"),
]
Optimizer = Annotated[
    str,
    typer.Option(
        "--optimizer", envvar="GRAMSERVE_CLIENT_OPTIMIZER", help="Address of the optimizer.", metavar="HOST:PORT"
    ),
]
Laboratory = Annotated[
    str,
    typer.Option(
        "--laboratory", envvar="GRAMSERVE_CLIENT_LABORATORY", help="Laboratory that the batch belongs to.", metavar="L"
    ),
]


def no_gateway(address: str) -> str:
    """What to do when nothing answers at `address`."""
    return (
        f"no gateway answers at {address}; start one with `gramserve up --data-dir DIR`, "
        "or name another with --gateway HOST:PORT"
    )


def no_optimizer(address: str) -> str:
    """What to do when nothing answers at `address`."""
    return (
        f"no optimizer answers at {address}; start one with `gramserve up --data-dir DIR`, "
        "or name another with --optimizer HOST:PORT"
    )


@asynccontextmanager
async def gateway(
    address: str, laboratory: str = LABORATORY, patience: Patience | None = None
) -> AsyncIterator[GramserveClient]:
    """A client of the gateway that has answered."""
    how = calling()
    async with GramserveClient(
        address, laboratory=laboratory, patience=patience, tls=how.tls, token_file=how.token_file
    ) as client:
        await client.connect(CONNECT_S)
        yield client


@asynccontextmanager
async def optimizer(address: str) -> AsyncIterator[OptimizerClient]:
    """A client of the optimizer that has answered."""
    how = calling()
    async with OptimizerClient(address, tls=how.tls, token_file=how.token_file) as client:
        await client.connect(CONNECT_S)
        yield client
