"""All commands of `gramserve`; each file is imported when its command is used, so that none waits for the others."""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperGroup

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
    "models": "models",
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
        found = getattr(importlib.import_module(f"gramserve.cli.{COMMANDS[cmd_name]}"), cmd_name)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            single.command(cmd_name)(found)
            found = single
        command = typer.main.get_command(found)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_OnDemand,
    help="Optimizes, serves and shows the Gram-stain AI of a microbiology laboratory.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def gramserve() -> None:
    """Optimizes, serves and shows the Gram-stain AI of a microbiology laboratory."""
