"""How every command shows who calls and checks whom it talks to: options of `gramserve` itself."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Annotated

import typer

from gramserve.tls.options import TlsOptions

_PANEL = "Services on other machines"

CaFile = Annotated[
    str,
    typer.Option(
        envvar="GRAMSERVE_CLIENT_CA_FILE",
        help="CA that verifies the services; else those of the system.",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
CertFile = Annotated[
    str,
    typer.Option(
        envvar="GRAMSERVE_CLIENT_CERT_FILE",
        help="Certificate that shows who calls.",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
KeyFile = Annotated[
    str,
    typer.Option(
        envvar="GRAMSERVE_CLIENT_KEY_FILE", help="Key of that certificate.", metavar="FILE", rich_help_panel=_PANEL
    ),
]
TokenFile = Annotated[
    str,
    typer.Option(
        envvar="GRAMSERVE_CLIENT_TOKEN_FILE",
        help="File with the token that shows who calls.",
        metavar="FILE",
        rich_help_panel=_PANEL,
    ),
]
AllowPlaintext = Annotated[
    bool,
    typer.Option(
        "--allow-plaintext",
        envvar="GRAMSERVE_CLIENT_ALLOW_PLAINTEXT",
        help="Speak to other machines without TLS.",
        rich_help_panel=_PANEL,
    ),
]


@dataclass(frozen=True, slots=True)
class Calling:
    """What a connection shows and trusts."""

    tls: TlsOptions = field(default_factory=TlsOptions)
    token_file: str = ""


_calling: ContextVar[Calling | None] = ContextVar("calling", default=None)


def call_with(tls: TlsOptions, token_file: str) -> None:
    """Connections of this command are opened with these from now on."""
    _calling.set(Calling(tls, token_file))


def calling() -> Calling:
    """What the options and the environment of this command say."""
    return _calling.get() or Calling()
