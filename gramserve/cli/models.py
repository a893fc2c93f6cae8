"""gramserve models: which versions there are and which of them serves."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from gramserve.cli import connection
from gramserve.cli.connection import Gateway
from gramserve.cli.speech import console, run
from gramserve.cli.submit import model_name
from gramserve.v1.model_pb2 import Model

models = typer.Typer(help="List, show, promote and roll back models.", no_args_is_help=True, add_completion=False)

Name = Annotated[str, typer.Argument(help='Model: "gram" or "models/gram".', metavar="MODEL")]
Alias = Annotated[str, typer.Option(help="Alias to move.", metavar="ALIAS")]


@models.command("list")
def list_models(gateway: Gateway = connection.GATEWAY) -> None:
    """List the models and what their aliases point at."""
    run(_list(gateway), unreachable=connection.no_gateway(gateway))


@models.command()
def show(model: Name, gateway: Gateway = connection.GATEWAY) -> None:
    """Show the versions of a model, newest first."""
    run(_show(gateway, model_name(model)), unreachable=connection.no_gateway(gateway))


@models.command()
def promote(
    model: Name,
    version: Annotated[int, typer.Argument(help="Version number.", min=1)],
    alias: Alias = "production",
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Let an alias point at a version: batches created from now on use it."""
    run(_promote(gateway, model_name(model), version, alias), unreachable=connection.no_gateway(gateway))


@models.command()
def rollback(model: Name, alias: Alias = "production", gateway: Gateway = connection.GATEWAY) -> None:
    """Let an alias point at the version before."""
    run(_rollback(gateway, model_name(model), alias), unreachable=connection.no_gateway(gateway))


def aliases_text(model: Model) -> str:
    """The aliases in one line: "production: 3, shadow: 4"."""
    return ", ".join(f"{alias.name}: {alias.version}" for alias in model.aliases) or "no alias"


async def _list(address: str) -> None:
    table = Table("model", "newest version", "aliases", box=None, pad_edge=False)
    async with connection.gateway(address) as client:
        async for model in client.list_models():
            table.add_row(model.name, str(model.latest_version), aliases_text(model))
    if table.row_count:
        console().print(table)
    else:
        console().print("no models yet; `gramserve optimize` makes one")


async def _show(address: str, name: str) -> None:
    titles = (
        "version",
        "aliases",
        "architecture",
        "recipe",
        "size",
        "accuracy",
        "checkpoint",
        "proved",
        "tiles/s",
        "made",
    )
    table = Table(*titles, box=None, pad_edge=False)
    async with connection.gateway(address) as client:
        model = await client.get_model(name)
        async for version in client.list_model_versions(name):
            table.add_row(
                version.name.rpartition("/")[2],
                ", ".join(version.aliases),
                version.architecture,
                version.recipe,
                f"{version.size_bytes / 1e6:.2f} MB",
                f"{version.accuracy:.1%}",
                f"{version.checkpoint_accuracy:.1%}",
                "yes" if version.proved else "no",
                f"{version.images_per_second:.0f}",
                f"{version.create_time.ToDatetime():%Y-%m-%d %H:%M} UTC",
            )
    out = console()
    out.print(f"{model.name}: {aliases_text(model)}")
    out.print(table)


async def _promote(address: str, name: str, version: int, alias: str) -> None:
    async with connection.gateway(address) as client:
        model = await client.promote_model_version(f"{name}/versions/{version}", alias=alias)
    console().print(f"{model.name}: {aliases_text(model)}")


async def _rollback(address: str, name: str, alias: str) -> None:
    async with connection.gateway(address) as client:
        model = await client.rollback_model(name, alias=alias)
    console().print(f"{model.name}: {aliases_text(model)}")
