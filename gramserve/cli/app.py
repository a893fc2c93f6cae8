"""All commands of `gramserve`; each file is imported when its command is used, so that none waits for the others."""

from __future__ import annotations

import importlib
import os
from typing import Any

import typer
from typer.core import TyperGroup

from gramserve.cli.calling import AllowPlaintext, CaFile, CertFile, KeyFile, TokenFile, call_with
from gramserve.cli.speech import plain_errors
from gramserve.tls.options import TlsOptions

# Command -> module below gramserve.cli that has it under the same name, as a function or group; in the order of help.
COMMANDS = {
    "up": "up",
    "samples": "samples",
    "finetune": "finetune",
    "study": "study",
    "optimize": "optimize",
    "submit": "submit",
    "classify": "classify",
    "watch": "batches",
    "results": "batches",
    "cancel": "batches",
    "retry": "batches",
    "status": "status",
    "report": "report",
    "models": "models",
    "certs": "certs",
    "principals": "principals",
    "tokens": "tokens",
    "audit": "audit",
    "keys": "keys",
    "purge": "purge",
    "backup": "backup",
    "doctor": "doctor",
}


class _OnDemand(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        # Read when gRPC is loaded: its core would put lines of its own between ours.
        os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
        found = getattr(importlib.import_module(f"gramserve.cli.{COMMANDS[cmd_name]}"), cmd_name)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        _speak_plainly(command)
        return command


def _speak_plainly(command: Any) -> None:
    """Has the command, and those below it, say in one line what it did not expect."""
    for inner in getattr(command, "commands", {}).values():
        _speak_plainly(inner)
    if command.callback is not None:
        command.callback = plain_errors()(command.callback)


app = typer.Typer(
    cls=_OnDemand,
    help="Optimizes, serves and shows the Gram-stain AI of a microbiology laboratory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def gramserve(
    ca_file: CaFile = "",
    cert_file: CertFile = "",
    key_file: KeyFile = "",
    token_file: TokenFile = "",
    allow_plaintext: AllowPlaintext = False,
) -> None:
    """Optimizes, serves and shows the Gram-stain AI of a microbiology laboratory."""
    call_with(TlsOptions(cert_file, key_file, ca_file, allow_plaintext=allow_plaintext), token_file)
