"""gramserve study: architectures x recipes x pruned or not, compared on a laboratory's own tiles."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from gramserve.cli.speech import INTERRUPTED, console, plain_errors, refuse, side_console

if TYPE_CHECKING:
    from optimizer_svc.study import StudyProgress


def study(
    data: Annotated[Path, typer.Argument(help="ImageFolder with train/ and val/.", metavar="DATA")],
    arch: Annotated[list[str], typer.Option(help="timm architecture; once for each.", metavar="NAME")],
    output: Annotated[Path, typer.Option(help="Folder for the report and all that is kept.", metavar="DIR")],
    labels: Annotated[
        Path | None,
        typer.Option(help="LABELS.yaml; default: labels.yaml in DATA, else the folders of train/.", metavar="FILE"),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Pretrained weights to fine-tune from; without them from scratch.", metavar="NAME=FILE"),
    ] = None,
    checkpoint: Annotated[
        list[str] | None, typer.Option(help="A fine-tuned checkpoint to take as it is.", metavar="NAME=FILE")
    ] = None,
    keep_macs: Annotated[
        float, typer.Option(help="Share of the multiply-accumulates that the pruned networks keep.")
    ] = 0.5,
    no_prune: Annotated[bool, typer.Option("--no-prune", help="Leave the pruned networks out.")] = False,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs of fine-tuning; default as for `gramserve finetune`.", min=0)
    ] = None,
    distill_epochs: Annotated[int, typer.Option(help="Most epochs of a pruned network's recovery.", min=1)] = 30,
    input_px: Annotated[
        int | None, typer.Option(help="Edge of the models' input in pixels; default: each model's own.", min=16)
    ] = None,
    budget_minutes: Annotated[
        float, typer.Option(help="Time to recover and measure one architecture; fine-tuning comes on top.")
    ] = 20.0,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**32 - 1)] = 0,
) -> None:
    """Compare architectures: fp32, int8 per tensor and per channel, pruned or not; accuracy, speed and size."""
    files = _files(weights or (), "--weights"), _files(checkpoint or (), "--checkpoint")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; see optimizer_svc/process.py
    try:  # here, because it takes seconds and most installations have no torch
        from optimizer_svc.finetune import labels_of  # noqa: PLC0415
        from optimizer_svc.labels import read_labels  # noqa: PLC0415
        from optimizer_svc.study import StudySpec, run_study  # noqa: PLC0415
    except ImportError as error:
        raise refuse(f"a study needs {error.name}: pip install 'gramserve[optimizer]'") from None
    with plain_errors():
        spec = StudySpec(
            data=data,
            architectures=tuple(arch),
            output=output,
            labels=read_labels(labels) if labels else labels_of(data),
            weights=files[0],
            checkpoints=files[1],
            keep_macs=None if no_prune else keep_macs,
            epochs=epochs,
            distill_epochs=distill_epochs,
            input_px=input_px,
            budget_minutes=budget_minutes,
            seed=seed,
        )
        try:
            written = _shown(run_study, spec)
        except KeyboardInterrupt:
            typer.echo("gramserve: stopped; the same command goes on from here", err=True)
            raise typer.Exit(INTERRUPTED) from None
    out = console()
    _summary(out, written)
    out.print(f"written: {output / 'study.html'}, study.json and study.csv beside it")
    if all(found["failure"] for found in written["architectures"]):
        raise refuse("no architecture could be studied")


def _files(pairs: Sequence[str], option: str) -> dict[str, Path]:
    """NAME=FILE, once for each name."""
    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and path) or name in found:
            raise refuse(f"{option} takes NAME=FILE, once for each NAME; {pair!r} is something else")
        found[name] = Path(path)
    return found


def _shown(run_study: Any, spec: Any) -> dict[str, Any]:
    """Runs it under a progress bar, or with a line for each architecture where nobody watches."""
    side = side_console()
    bar = Progress(
        TextColumn("{task.completed:.1f} of {task.total:g} architectures"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=side,
        disable=not side.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=len(spec.architectures))

        def show(now: StudyProgress) -> None:
            bar.update(task, completed=now.done + now.fraction, description=f"{now.architecture}: {now.message}")
            if now.fraction >= 1 and not side.is_terminal:
                side.print(f"{now.done + 1} of {now.total}: {now.architecture}: {now.message}")

        written: dict[str, Any] = run_study(spec, show)
    return written


def _summary(out: Console, written: dict[str, Any]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in ("architecture", "network", "recipe", "engine"):
        table.add_column(name)
    for name in ("images/s", "speed-up", "accuracy", "MB"):
        table.add_column(name, justify="right")
    for found in written["architectures"]:
        if found["failure"]:
            table.add_row(found["architecture"], found["failure"])
            continue
        base = found["checkpoint"]
        cells = (f"{base['images_per_s']:.1f}", "1.0", f"{base['accuracy']:.1%}", f"{base['bytes'] / 1e6:.2f}")
        table.add_row(found["architecture"], "checkpoint", "fp32", "torch eager", *cells)
        for row in found["rows"]:
            names = ("", row["network"], row["recipe"], row["engine"])
            if row["failure"]:
                table.add_row(*names, "failed")
                continue
            figures = (f"{row['images_per_s']:.1f}", f"{row['speed_up']:.1f}")
            table.add_row(*names, *figures, f"{row['accuracy']:.1%}", f"{row['bytes'] / 1e6:.2f}")
    out.print(table)
