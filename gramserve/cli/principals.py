"""gramserve principals: who may call, with which roles and for which laboratories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError
from rich.table import Table

from gramserve.access.editing import AccessEditor
from gramserve.access.file import PrincipalEntry
from gramserve.access.principal import Role
from gramserve.cli.speech import console, plain_errors
from gramserve.errors import InvalidInput, Reason

principals = typer.Typer(
    help="Say who may call, with which roles and for which laboratories.", no_args_is_help=True, add_completion=False
)

File = Annotated[
    Path, typer.Option("--access-file", envvar="GRAMSERVE_ACCESS_FILE", help="The access file.", metavar="FILE")
]
Name = Annotated[str, typer.Argument(help="Name of the principal: a person or a system.", metavar="NAME")]


@principals.command("list")
def list_principals(access_file: File) -> None:
    """List all principals."""
    with plain_errors():
        table = Table("principal", "roles", "laboratories", "tokens", "certificates", box=None, pad_edge=False)
        for entry in AccessEditor(access_file).read().principals:
            table.add_row(
                entry.name,
                ", ".join(entry.roles),
                ", ".join(entry.laboratories) or "none",
                str(len(entry.tokens)),
                ", ".join(entry.certificates),
            )
        console().print(table)


@principals.command()
def add(
    name: Name,
    access_file: File,
    role: Annotated[list[Role], typer.Option(help="What it may be; more than once for more roles.")],
    laboratory: Annotated[
        list[str] | None,
        typer.Option(help='Laboratory whose slides it may see; more than once for more, "*" for all.', metavar="L"),
    ] = None,
    certificate: Annotated[
        list[str] | None,
        typer.Option(help="Common name or alternative name of its client certificate.", metavar="NAME"),
    ] = None,
) -> None:
    """Add a principal; the file is made when it is missing."""
    with plain_errors():
        AccessEditor(access_file).add(_entry(name, role, laboratory or [], certificate or []))
        typer.echo(f"{name} added; `gramserve tokens create {name}` gives it a token")


@principals.command()
def remove(name: Name, access_file: File) -> None:
    """Remove a principal with all of its tokens."""
    with plain_errors():
        AccessEditor(access_file).remove(name)
        typer.echo(f"{name} removed")


def _entry(name: str, roles: list[Role], laboratories: list[str], certificates: list[str]) -> PrincipalEntry:
    try:
        return PrincipalEntry(
            name=name, roles=tuple(roles), laboratories=tuple(laboratories), certificates=tuple(certificates)
        )
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        field = str(fault["loc"][0]) if fault["loc"] else "principal"
        what = fault["msg"].removeprefix("Value error, ")
        raise InvalidInput(Reason.INVALID_FIELD, f"{field}: {what}", violations=[(field, what)]) from None
