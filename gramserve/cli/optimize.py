"""gramserve optimize: a checkpoint becomes the fastest artifact that is as safe as the checkpoint."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from gramserve.cli import connection
from gramserve.cli.connection import Optimizer
from gramserve.cli.labels import read_labels
from gramserve.cli.speech import REFUSED, console, refuse, run, sentence, side_console
from gramserve.cli.submit import model_name
from gramserve.client import TERMINAL_OPTIMIZATION_STATES, OptimizerClient
from gramserve.client.archive import zip_folder
from gramserve.rpc.status import from_status
from gramserve.v1.optimization_pb2 import Optimization

DEFAULT_BUDGET_MINUTES = 20.0


def optimize(
    checkpoint: Annotated[Path, typer.Argument(help="safetensors or torch zip file.", metavar="CHECKPOINT")],
    arch: Annotated[str, typer.Option(help="timm architecture of the checkpoint.", metavar="NAME")],
    labels: Annotated[Path, typer.Option(help="LABELS.yaml, in the checkpoint's order.", metavar="LABELS.yaml")],
    data: Annotated[Path, typer.Option(help="ImageFolder with train/ and val/, or a zip of one.", metavar="DIR")],
    model: Annotated[str, typer.Option(help="Model to publish the artifact under.", metavar="NAME")],
    budget_minutes: Annotated[float, typer.Option(help="Time to aim at.", min=0.1)] = DEFAULT_BUDGET_MINUTES,
    promote: Annotated[bool, typer.Option("--promote", help="Let `production` point at the artifact.")] = False,
    margin: Annotated[
        float, typer.Option(help="Largest loss of accuracy that counts as none; 0 is the default.", min=0, max=1)
    ] = 0.0,
    keep_macs: Annotated[
        float, typer.Option(help="Share of MACs to keep when pruning; 0 is the default.", min=0, max=1)
    ] = 0.0,
    allow_unproved: Annotated[
        bool, typer.Option("--allow-unproved", help="Accept though too few tiles prove the margin; it is recorded.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    input_px: Annotated[
        int, typer.Option(help="Edge of the model's input; 0: as the checkpoint says, else timm.", min=0, max=2048)
    ] = 0,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    optimizer: Optimizer = connection.OPTIMIZER,
) -> None:
    """Optimize a checkpoint with the optimizer service, showing its stages and the time left of the budget."""
    settings = Optimization.Settings(
        margin=margin,
        allow_unproved=allow_unproved,
        promote=promote,
        keep_macs=keep_macs,
        seed=seed,
        input_px=input_px,
    )
    settings.budget.FromMilliseconds(round(budget_minutes * 60_000))
    draft = Optimization(model=model_name(model), architecture=arch, settings=settings)
    run(
        _optimize(optimizer, draft, checkpoint, labels, data, detach),
        unreachable=connection.no_optimizer(optimizer),
    )


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
        if not detach:
            show_outcome(out, await follow(client, started))


async def _upload_data(client: OptimizerClient, data: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="gramserve-") as folder:
        return await client.upload_file(await asyncio.to_thread(_archive, data, Path(folder, "data.zip")))


def _archive(data: Path, archive: Path) -> Path:
    if not data.is_dir():
        return data
    zip_folder(data, archive)
    return archive


async def follow(client: OptimizerClient, optimization: Optimization) -> Optimization:
    """Show the stages as they come, and the time left of the budget, until the optimization is terminal."""
    budget_s = optimization.settings.budget.ToTimedelta().total_seconds() or DEFAULT_BUDGET_MINUTES * 60
    last, told = optimization, ""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=side_console()) as progress:
        task = progress.add_task("queued", total=1.0, left="")
        async with aclosing(client.watch_optimization(optimization.name)) as changes:
            async for last in changes:
                step = last.progress
                if step.stage and step.message != told and last.state not in TERMINAL_OPTIMIZATION_STATES:
                    told = step.message
                    progress.console.print(f"{step.stage.lower()}: {step.message}")
                left_s = budget_s
                if last.HasField("start_time"):
                    left_s -= progress.tasks[task].elapsed or 0.0
                progress.update(
                    task,
                    description=step.stage.lower() or "queued",
                    completed=step.fraction,
                    left=f"{max(left_s, 0) / 60:.1f} min of the budget left",
                )
    return last


def show_outcome(out: Console, optimization: Optimization) -> None:
    """Print what was published. Raises typer.Exit (2) when nothing was."""
    if optimization.state == Optimization.STATE_CANCELLED:
        raise refuse(f"{optimization.name} was cancelled")
    if optimization.state == Optimization.STATE_FAILED:
        if optimization.report_uri:
            out.print(f"report: {optimization.report_uri}/report.html")
        typer.echo(f"gramserve: {sentence(from_status(optimization.error))}", err=True)
        raise typer.Exit(REFUSED)
    version = optimization.model_version
    out.print(
        f"{version.name}: {version.recipe}; {version.size_bytes / 1e6:.2f} MB, accuracy {version.accuracy:.1%} "
        f"(checkpoint {version.checkpoint_accuracy:.1%}, {'proved' if version.proved else 'not proved'}), "
        f"{version.images_per_second:.0f} tiles/s on one core"
    )
    if version.aliases:
        out.print(f"serves as: {', '.join(version.aliases)}")
    out.print(f"report: {optimization.report_uri}/report.html")
