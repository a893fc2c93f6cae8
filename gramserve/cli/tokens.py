"""gramserve tokens: what principals show to be let in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from gramserve.access.editing import AccessEditor
from gramserve.access.file import TokenEntry
from gramserve.access.tokens import Token
from gramserve.cli.principals import File, Name
from gramserve.cli.speech import console, plain_errors

tokens = typer.Typer(help="Create, list, rotate and revoke bearer tokens.", no_args_is_help=True, add_completion=False)

Days = Annotated[int, typer.Option(help="Days until the token expires.", min=1, max=3650)]
Id = Annotated[str, typer.Argument(help="Id of the token, the part between the underscores.", metavar="ID")]


@tokens.command()
def create(name: Name, access_file: File, days: Days = 90) -> None:
    """Give a principal a token; it is printed once and kept nowhere."""
    with plain_errors():
        _show(AccessEditor(access_file).create_token(name, timedelta(days=days)))


@tokens.command("list")
def list_tokens(access_file: File) -> None:
    """List the tokens of all principals; what a token is cannot be shown any more."""
    with plain_errors():
        table = Table("token", "principal", "created", "expires", "state", box=None, pad_edge=False)
        now = datetime.now(UTC)
        for owner, token in AccessEditor(access_file).read().tokens():
            table.add_row(token.id, owner.name, _time(token.created), _time(token.expires), _state(token, now))
        console().print(table)


@tokens.command()
def rotate(
    token_id: Id,
    access_file: File,
    days: Days = 90,
    overlap_hours: Annotated[
        float, typer.Option(help="Hours for which the old token still holds.", min=0, max=8760)
    ] = 24.0,
) -> None:
    """Give the owner of a token a new one; the old one ends after the overlap."""
    with plain_errors():
        editor = AccessEditor(access_file)
        _show(editor.rotate_token(token_id, timedelta(days=days), timedelta(hours=overlap_hours)))


@tokens.command()
def revoke(token_id: Id, access_file: File) -> None:
    """End a token at once."""
    with plain_errors():
        AccessEditor(access_file).revoke_token(token_id)
        typer.echo(f"{token_id} revoked; services know within a second")


def _show(token: Token) -> None:
    """The token alone on standard output, so that it can be piped to where it belongs."""
    typer.echo("keep this token: it is shown only now", err=True)
    typer.echo(token.text)


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _state(token: TokenEntry, now: datetime) -> str:
    if token.revoked is not None:
        return f"revoked {_time(token.revoked)}"
    return "expired" if token.expires <= now else "holds"
