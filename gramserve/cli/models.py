"""gramserve models: which versions there are, which of them serves, and which runs in its shadow."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from gramserve.cli import connection
from gramserve.cli.connection import Gateway
from gramserve.cli.speech import console, run, word
from gramserve.cli.store_option import STORE, Store, local_actor
from gramserve.cli.submit import model_name
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from gramserve.store.signing import load_signer
from gramserve.v1.model_pb2 import Alias as ModelAlias
from gramserve.v1.model_pb2 import Model, ModelShadow

models = typer.Typer(
    help="List, show, promote and roll back models; run one in the shadow.", no_args_is_help=True, add_completion=False
)

Name = Annotated[str, typer.Argument(help='Model: "gram" or "models/gram".', metavar="MODEL")]
Share = Annotated[
    float, typer.Option(help="Of --alias shadow: part of production's slides that it runs, too.", min=0, max=1)
]
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
    share: Share = 0.0,
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Let an alias point at a version: batches created from now on use it."""
    run(_promote(gateway, model_name(model), version, alias, share), unreachable=connection.no_gateway(gateway))


@models.command()
def rollback(model: Name, alias: Alias = "production", gateway: Gateway = connection.GATEWAY) -> None:
    """Let an alias point at the version before."""
    run(_rollback(gateway, model_name(model), alias), unreachable=connection.no_gateway(gateway))


@models.command()
def shadow(
    model: Name,
    production: Annotated[int, typer.Option(help="Version that was in production; 0 is the one that is.")] = 0,
    candidate: Annotated[int, typer.Option(help="Version that was in its shadow; 0 is the one that is.")] = 0,
    gateway: Gateway = connection.GATEWAY,
) -> None:
    """Show how the version in the shadow compares with the one in production, on the same slides."""
    run(_shadow(gateway, model_name(model), production, candidate), unreachable=connection.no_gateway(gateway))


@models.command()
def sign(
    model: Name,
    version: Annotated[int, typer.Argument(help="Version number.", min=1)],
    key: Annotated[
        str, typer.Option(envvar="GRAMSERVE_OPTIMIZER_SIGNING_KEY", help="PEM file, or pkcs11: URI.", metavar="KEY")
    ],
    store: Store = STORE,
) -> None:
    """Add a signature to a version, in the store itself: where there was no key yet, or to rotate keys."""
    run(_sign(store, model_name(model), version, key))


@models.command()
def unshadow(model: Name, gateway: Gateway = connection.GATEWAY) -> None:
    """End the shadow of a model; `rollback MODEL --alias shadow` brings it back."""
    run(_unshadow(gateway, model_name(model)), unreachable=connection.no_gateway(gateway))


def aliases_text(model: Model) -> str:
    """The aliases in one line: "production: 3, shadow: 4 (10 % of slides)"."""
    return ", ".join(_alias_text(alias) for alias in model.aliases) or "no alias"


def _alias_text(alias: ModelAlias) -> str:
    share = f" ({100 * alias.share:.3g} % of slides)" if alias.share else ""
    return f"{alias.name}: {alias.version}{share}"


def shadow_lines(found: ModelShadow) -> list[str]:
    """What is said of a shadow, a line each."""
    running = f"{100 * found.share:.3g} % of slides" if found.share else "not running"
    versions = f"version {found.shadow_version} in the shadow of {found.production_version}"
    lines = [f"{found.name.removesuffix('/shadow')}: {versions}, {running}; {found.compared_count} slides compared"]
    if found.compared_count:
        lines.append(f"same outcome and findings: {_rate_text(found.agreement)}")
        lines.append(f"organism missed or Gram reaction turned over: {_rate_text(found.very_major)}")
    if found.speed_ratio:
        lines.append(f"engine {found.speed_ratio:.2f} times as fast as production's")
    verdicts = ModelShadow.Verdict.DESCRIPTOR
    return lines + [f"{count.slide_count:>8} {word(verdicts, count.verdict, 'VERDICT_')}" for count in found.counts]


def _rate_text(rate: ModelShadow.Rate) -> str:
    return f"{rate.value:.2%} (95 % interval {rate.low:.2%} to {rate.high:.2%})"


async def _sign(store: str, name: str, version: int, key: str) -> None:
    signer, objects, model = load_signer(key), open_store(store), name.removeprefix("models/")
    registry, signed = Registry(objects), f"{name}/versions/{version}"
    _, digest = await registry.manifest(model, version)
    await AuditLog(objects).record(Action.MODEL_SIGN, signed, artifact=digest, actor=local_actor(), key=signer.key_id)
    await registry.sign(model, version, signer)
    console().print(f"{signed}: signed by {signer.key_id}")


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


async def _promote(address: str, name: str, version: int, alias: str, share: float) -> None:
    async with connection.gateway(address) as client:
        model = await client.promote_model_version(f"{name}/versions/{version}", alias=alias, share=share)
    console().print(f"{model.name}: {aliases_text(model)}")


async def _rollback(address: str, name: str, alias: str) -> None:
    async with connection.gateway(address) as client:
        model = await client.rollback_model(name, alias=alias)
    console().print(f"{model.name}: {aliases_text(model)}")


async def _shadow(address: str, name: str, production: int, candidate: int) -> None:
    async with connection.gateway(address) as client:
        found = await client.model_shadow(name, production=production, shadow=candidate)
    for line in shadow_lines(found):
        console().print(line)


async def _unshadow(address: str, name: str) -> None:
    async with connection.gateway(address) as client:
        model = await client.remove_model_alias(name, "shadow")
    console().print(f"{model.name}: {aliases_text(model)}")
