"""gramserve up: everything on one machine."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from gramserve.cli.speech import refuse, run
from gramserve.local import Stack, StackOptions
from gramserve.local.stack import serve


def up(
    data_dir: Annotated[Path, typer.Option(help="Folder that keeps everything; made when missing.", metavar="DIR")],
    gateway_port: Annotated[
        int, typer.Option(help="Port of the gateway; 0 takes a free one.", min=0, max=65535)
    ] = 50051,
    optimizer_port: Annotated[
        int, typer.Option(help="Port of the optimizer; 0 takes a free one.", min=0, max=65535)
    ] = 50053,
    workers: Annotated[int, typer.Option(help="Worker processes; the CPUs are divided between them.", min=1)] = 1,
    no_optimizer: Annotated[bool, typer.Option("--no-optimizer", help="Start no optimizer.")] = False,
    metrics_port: Annotated[
        int, typer.Option(help="First port of the Prometheus metrics; 0 shows none.", min=0, max=65000)
    ] = 0,
    children: Annotated[
        int, typer.Option(help="Child processes of all workers; 0 is one for each CPU.", min=0, max=1024)
    ] = 0,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond the loopback only with --tls-dir.", metavar="HOST")
    ] = "127.0.0.1",
    tls_dir: Annotated[
        Path | None, typer.Option(help="Serve with the certificates of `gramserve certs init DIR`.", metavar="DIR")
    ] = None,
    client_certificates: Annotated[
        bool, typer.Option("--client-certificates", help="Callers must show a certificate of the CA in --tls-dir.")
    ] = False,
    store: Annotated[
        str, typer.Option(help="Store elsewhere, such as s3://bucket/prefix; else DIR/store.", metavar="URL")
    ] = "",
) -> None:
    """Start Redis, gateway, workers and optimizer on this machine; prints "ready"; ends with Ctrl-C."""
    options = StackOptions(
        data_dir=data_dir,
        gateway_port=gateway_port,
        optimizer_port=optimizer_port,
        workers=workers,
        optimizer=not no_optimizer,
        metrics_port=metrics_port,
        children=children,
        host=host,
        tls_dir=tls_dir,
        client_certificates=client_certificates,
        store_url=store,
    )
    if client_certificates and tls_dir is None:
        raise refuse("--client-certificates needs --tls-dir")
    run(_up(options))


async def _up(options: StackOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def asked_to_stop(number: int) -> None:
        if not stop.is_set():
            typer.echo("stopping: running slides are finished first")
        # A second signal gets the default: it ends this process at once, and the services with it.
        loop.remove_signal_handler(number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, asked_to_stop, number)
    # typer.echo flushes, so that whoever waits for "ready" sees it.
    await serve(Stack(options, typer.echo), stop, typer.echo)
