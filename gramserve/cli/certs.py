"""gramserve certs: a laboratory's own CA and certificates, for a trial or a network of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from gramserve.cli.speech import SLIDES_FAILED, console, plain_errors, refuse
from gramserve.tls.authority import LEAF_DAYS, SERVICES, Authority, describe

certs = typer.Typer(
    help="Make a CA and certificates for TLS, renew and show them.", no_args_is_help=True, add_completion=False
)

LOCAL = ("localhost", "127.0.0.1", "::1")
FIRST_CLIENT = "client"

Folder = Annotated[Path, typer.Argument(help="Folder of the CA and its certificates.", metavar="DIR")]
Days = Annotated[int, typer.Option(help="How long the certificates are valid.", min=1, max=3650, metavar="N")]


@certs.command()
def init(
    folder: Folder,
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address by which services are reached; repeatable.")
    ] = None,
    days: Days = LEAF_DAYS,
) -> None:
    """Make a CA in DIR with certificates of gateway, worker, optimizer, night report, Redis and a first client.

    Each service is known as localhost, by its own name, and as every --host. Keep ca.key away from the services.
    """
    with plain_errors():
        authority = Authority.create(folder)
        for service in SERVICES:
            authority.issue(service, hosts=tuple(dict.fromkeys((service, *LOCAL, *(host or ())))), days=days)
        authority.issue(FIRST_CLIENT, days=days)
    _show([folder], warn_days=0)


@certs.command()
def client(
    name: Annotated[str, typer.Argument(help="Who it is; access files know it by this name.", metavar="NAME")],
    folder: Annotated[Path, typer.Option("--dir", help="Folder of the CA.", metavar="DIR")],
    days: Days = LEAF_DAYS,
) -> None:
    """Make a certificate with which a client shows who it is: DIR/NAME.pem and DIR/NAME.key."""
    with plain_errors():
        if (folder / f"{name}.pem").exists():
            raise refuse(f"there is a certificate of {name} already; `gramserve certs renew` makes it last longer")
        typer.echo(Authority(folder).issue(name, days=days))


@certs.command()
def renew(folder: Folder, days: Days = LEAF_DAYS) -> None:
    """Give every certificate in DIR but the CA's a new one of the same key; running services take it up themselves."""
    with plain_errors():
        authority = Authority(folder)
        for file in sorted(folder.glob("*.pem")):
            if file.stem != "ca":
                authority.issue(file.stem, hosts=describe(file.read_bytes()).hosts, days=days)
    _show([folder], warn_days=0)


@certs.command()
def show(
    paths: Annotated[list[Path], typer.Argument(help="Folders, or PEM files.", metavar="PATH...")],
    warn_days: Annotated[int, typer.Option(help="Exit code 1 when one ends sooner.", min=0, metavar="N")] = 30,
) -> None:
    """Show what certificates say, and until when."""
    if not _show(paths, warn_days):
        raise typer.Exit(SLIDES_FAILED)


def _show(paths: list[Path], warn_days: int) -> bool:
    """True when all of them are valid for `warn_days` days."""
    with plain_errors():
        files = [file for path in paths for file in (sorted(path.glob("*.pem")) if path.is_dir() else [path])]
        if not files:
            raise refuse("there is no certificate here")
        found = [(file, describe(file.read_bytes())) for file in files]
    table = Table("file", "name", "as", "hosts", "ends", "days left", box=None, pad_edge=False)
    now, well = datetime.now(UTC), True
    for file, issued in found:
        left = issued.ends - now
        well &= left > timedelta(days=warn_days)
        ends = issued.ends.date().isoformat()
        table.add_row(str(file), issued.name, ", ".join(issued.uses), ", ".join(issued.hosts), ends, str(left.days))
    console().print(table)
    return well
