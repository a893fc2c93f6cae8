"""gramserve optimize: a checkpoint becomes the fastest artifact that is as safe as the checkpoint."""

from __future__ import annotations

import asyncio
import tempfile
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gramserve.cli import connection
from gramserve.cli.connection import Optimizer
from gramserve.cli.labels import read_labels
from gramserve.cli.searching import ended, follow, how_to_come_back
from gramserve.cli.speech import REFUSED, console, refuse, run, sentence, side_console
from gramserve.cli.submit import model_name
from gramserve.client import OptimizerClient
from gramserve.client.archive import zip_folder
from gramserve.rpc.status import from_status
from gramserve.v1.optimization_pb2 import Optimization

DEFAULT_BUDGET_MINUTES, MOST_MINUTES = 20.0, 1e6
_SEARCH, _PROOF, _INPUT, _RUNNING = "What to search", "What to prove", "Input of the checkpoint", "A running one"


class Importance(StrEnum):
    """How channels are ranked."""

    TAYLOR = "taylor"
    MAGNITUDE = "magnitude"


class Scope(StrEnum):
    """Where pruning looks."""

    UNIFORM = "uniform"
    ISOMORPHIC = "isomorphic"


def optimize(
    checkpoint: Annotated[
        Path | None, typer.Argument(help="safetensors or torch zip file.", metavar="CHECKPOINT", show_default=False)
    ] = None,
    arch: Annotated[str, typer.Option(help="timm architecture of the checkpoint.", metavar="NAME")] = "",
    labels: Annotated[
        Path | None, typer.Option(help="LABELS.yaml, in the checkpoint's order.", metavar="LABELS.yaml")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="ImageFolder with train/ and val/, or a zip of one.", metavar="DIR")
    ] = None,
    model: Annotated[str, typer.Option(help="Model to publish the artifact under.", metavar="NAME")] = "",
    budget_minutes: Annotated[
        float, typer.Option(help="Time to aim at.", min=0.1, max=MOST_MINUTES)
    ] = DEFAULT_BUDGET_MINUTES,
    promote: Annotated[bool, typer.Option("--promote", help="Let `production` point at the artifact.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**32 - 1)] = 0,
    margin: Annotated[
        float,
        typer.Option(
            help="Largest loss of accuracy that counts as none; default 0.01.",
            min=0,
            max=1,
            show_default=False,
            rich_help_panel=_PROOF,
        ),
    ] = 0.0,
    recall_margin: Annotated[
        float,
        typer.Option(
            help="The same of each class's recall; default 0.05.",
            min=0,
            max=1,
            show_default=False,
            rich_help_panel=_PROOF,
        ),
    ] = 0.0,
    allow_unproved: Annotated[
        bool,
        typer.Option(
            "--allow-unproved",
            help="Accept though too few tiles prove the margin; it is recorded.",
            rich_help_panel=_PROOF,
        ),
    ] = False,
    review_risk: Annotated[
        float,
        typer.Option(
            help="Share of wrong calls that may pass without review; default 0.05.",
            min=0,
            max=1,
            show_default=False,
            rich_help_panel=_PROOF,
        ),
    ] = 0.0,
    min_assessed_tiles: Annotated[
        int,
        typer.Option(
            help="A slide with fewer tiles fit to read is never called empty; default 1.",
            min=0,
            max=1_000_000,
            show_default=False,
            rich_help_panel=_PROOF,
        ),
    ] = 0,
    mixed_usual_in: Annotated[
        list[str] | None,
        typer.Option(
            help="Specimen type whose mixed growth needs no review; may be repeated.",
            metavar="TYPE",
            rich_help_panel=_PROOF,
        ),
    ] = None,
    keep_macs: Annotated[
        float,
        typer.Option(
            help="Share of MACs to keep when pruning; 1: no pruning. Default: the search's own targets.",
            min=0,
            max=1,
            show_default=False,
            rich_help_panel=_SEARCH,
        ),
    ] = 0.0,
    importance: Annotated[
        Importance, typer.Option(help="How channels are ranked for pruning.", rich_help_panel=_SEARCH)
    ] = Importance.TAYLOR,
    scope: Annotated[
        Scope, typer.Option(help="Prune every layer alike, or where it matters least.", rich_help_panel=_SEARCH)
    ] = Scope.UNIFORM,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            help="Quantization recipe to try; may be repeated. Default: all.", metavar="NAME", rich_help_panel=_SEARCH
        ),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="Engine to measure; may be repeated. Default: all installed; openvino-bf16 only by its name.",
            metavar="NAME",
            rich_help_panel=_SEARCH,
        ),
    ] = None,
    no_quantization_aware: Annotated[
        bool,
        typer.Option("--no-quantization-aware", help="Never train with rounded weights.", rich_help_panel=_SEARCH),
    ] = False,
    input_px: Annotated[
        int,
        typer.Option(
            help="Edge of the model's square input. Default: as the checkpoint says, else timm.",
            min=0,
            max=2048,
            show_default=False,
            rich_help_panel=_INPUT,
        ),
    ] = 0,
    mean: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Mean of R, G and B. Default: as the checkpoint says, else timm.", rich_help_panel=_INPUT),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        typer.Option(help="Their standard deviation. Default: the same.", rich_help_panel=_INPUT),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help="Follow this optimization again; it goes on by itself.", metavar="ID", rich_help_panel=_RUNNING
        ),
    ] = "",
    cancel: Annotated[
        str, typer.Option(help="End this optimization; there is no artifact.", metavar="ID", rich_help_panel=_RUNNING)
    ] = "",
    optimizer: Optimizer = connection.OPTIMIZER,
) -> None:
    """Optimize a checkpoint with the optimizer service, showing its stages, its trials and what is left of the budget.

    Ctrl-C ends the showing, not the optimization: --resume ID follows it again, --cancel ID ends it.
    """
    unreachable = connection.no_optimizer(optimizer)
    if cancel or resume:
        if (cancel and resume) or checkpoint is not None:
            raise refuse("--resume and --cancel stand alone: they name an optimization that there is")
        work = _cancel(optimizer, _name(cancel)) if cancel else _resume(optimizer, _name(resume))
        run(work, unreachable=unreachable)
        return
    if checkpoint is None or labels is None or data is None or not arch or not model:
        raise refuse("an optimization needs CHECKPOINT, --arch, --labels, --data and --model")
    settings = Optimization.Settings(
        margin=margin,
        allow_unproved=allow_unproved,
        promote=promote,
        keep_macs=keep_macs,
        seed=seed,
        input_px=input_px,
        recall_margin=recall_margin,
        importance=Optimization.Importance.Value(f"IMPORTANCE_{importance.name}"),
        scope=Optimization.Scope.Value(f"SCOPE_{scope.name}"),
        recipes=recipe or (),
        engines=engine or (),
        review_risk=review_risk,
        mean=mean or (),
        std=std or (),
        without_quantization_aware=no_quantization_aware,
        min_assessed_tiles=min_assessed_tiles,
        mixed_usual_in=mixed_usual_in or (),
    )
    settings.budget.FromMilliseconds(round(budget_minutes * 60_000))
    draft = Optimization(model=model_name(model), architecture=arch, settings=settings)
    run(_optimize(optimizer, draft, checkpoint, labels, data, detach), unreachable=unreachable)


async def _optimize(
    address: str, draft: Optimization, checkpoint: Path, labels: Path, data: Path, detach: bool
) -> None:
    out = console()
    draft.labels.extend(read_labels(labels))
    async with connection.optimizer(address) as client:
        with side_console().status("uploading"):
            draft.checkpoint.sha256 = await client.upload_file(checkpoint)
            draft.data.sha256 = await _upload_data(client, data)
        started = await client.create_optimization(draft)
        out.print(f"{started.name}: accepted")
        if detach:
            typer.echo(how_to_come_back(started.name, address), err=True)
        else:
            show_outcome(out, await follow(client, started, address))


async def _resume(address: str, name: str) -> None:
    """A service that was stopped took it up again by itself: there is only the showing to begin anew."""
    async with connection.optimizer(address) as client:
        optimization = await client.get_optimization(name)
        if not ended(optimization):
            optimization = await follow(client, optimization, address)
        show_outcome(console(), optimization)


async def _cancel(address: str, name: str) -> None:
    async with connection.optimizer(address) as client:
        optimization = await client.cancel_optimization(name)
        cancelled = optimization.state == Optimization.STATE_CANCELLED
        console().print(f"{name}: " + ("cancelled" if cancelled else "stops at its next step"))


def _name(optimization: str) -> str:
    """The resource name, also for an id alone."""
    return f"optimizations/{optimization.removeprefix('optimizations/')}"


async def _upload_data(client: OptimizerClient, data: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="gramserve-") as folder:
        return await client.upload_file(await asyncio.to_thread(_archive, data, Path(folder, "data.zip")))


def _archive(data: Path, archive: Path) -> Path:
    if not data.is_dir():
        return data
    zip_folder(data, archive)
    return archive


def show_outcome(out: Console, optimization: Optimization) -> None:
    """Print what was published. Raises typer.Exit (2) when nothing was."""
    if optimization.state == Optimization.STATE_CANCELLED:
        raise refuse(f"{optimization.name} was cancelled")
    if optimization.state == Optimization.STATE_FAILED:
        if optimization.report_uri:
            out.print(f"report: {optimization.report_uri}/report.html", soft_wrap=True)
        typer.echo(f"gramserve: {sentence(from_status(optimization.error))}", err=True)
        raise typer.Exit(REFUSED)
    version = optimization.model_version
    smaller = f", {version.size_ratio:.1f} times smaller than the checkpoint" if version.size_ratio else ""
    faster = f", {version.speed_ratio:.1f} times faster than the checkpoint in torch" if version.speed_ratio else ""
    proved = "proved" if version.proved else "not proved: too few tiles for the margin"
    lines = [
        f"{version.name}: {version.recipe}",
        f"size: {version.size_bytes / 1e6:.2f} MB{smaller}",
        f"speed: {version.images_per_second:.0f} tiles/s on one core{faster}",
        f"accuracy: {version.accuracy:.1%}, checkpoint {version.checkpoint_accuracy:.1%}, {proved}",
        f"serves as: {', '.join(version.aliases)}" if version.aliases else "",
        f"report: {optimization.report_uri}/report.html",
    ]
    for line in filter(None, lines):
        out.print(line, soft_wrap=True)
