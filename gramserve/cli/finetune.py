"""gramserve finetune: transfer learning on a laboratory's own tiles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gramserve.cli.speech import console, plain_errors, refuse

if TYPE_CHECKING:
    from optimizer_svc.finetune import FinetuneProgress


def finetune(
    data: Annotated[Path, typer.Argument(help="ImageFolder with train/ and val/.", metavar="DATA")],
    arch: Annotated[str, typer.Option(help="timm architecture, e.g. mobilenetv2_100.", metavar="NAME")],
    output: Annotated[Path, typer.Option(help="Checkpoint to write (.safetensors).", metavar="CKPT")],
    weights: Annotated[
        Path | None, typer.Option(help="Pretrained weights to start from; without them from scratch.", metavar="FILE")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Checkpoint of any architecture whose answers are learned.", metavar="FILE")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="LABELS.yaml; default: labels.yaml in DATA, else the folders of train/.", metavar="FILE"),
    ] = None,
    epochs_frozen: Annotated[
        int | None, typer.Option(help="Epochs with the backbone frozen; default 2, without weights 0.", min=0)
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(help="Epochs with everything trained; default 8, without weights 25 (40 with a teacher).", min=0),
    ] = None,
    input_px: Annotated[int | None, typer.Option(help="Edge of the model's input in pixels.", min=16)] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=2**32 - 1)] = 0,
) -> None:
    """Fine-tune an architecture on labelled tiles: first its head on a frozen backbone, then all of it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; see optimizer_svc/process.py
    try:  # here, because it takes seconds and most installations have no torch
        from optimizer_svc import finetune as training  # noqa: PLC0415
        from optimizer_svc.labels import read_labels  # noqa: PLC0415
    except ImportError as error:
        raise refuse(f"fine-tuning needs {error.name}: pip install 'gramserve[optimizer]'") from None
    out = console()

    def show(step: FinetuneProgress) -> None:
        out.print(
            f"epoch {step.epoch}/{step.epochs} ({step.phase}): training loss {step.train_loss:.3f}, "
            f"validation accuracy {step.val_accuracy:.1%}, {step.elapsed_s:.0f} s"
        )

    with plain_errors():
        done = training.finetune(
            data,
            architecture=arch,
            output=output,
            labels=read_labels(labels) if labels else None,
            weights=weights,
            teacher=teacher,
            epochs_frozen=epochs_frozen,
            epochs_unfrozen=epochs,
            input_px=input_px,
            seed=seed,
            progress=show,
        )
    out.print(
        f"{done.output}: {len(done.labels)} labels, validation accuracy {done.val_accuracy:.1%} "
        f"on {done.val_tiles} tiles (epoch {done.best_epoch}), {done.input_px} px, {done.elapsed_s:.0f} s"
    )
