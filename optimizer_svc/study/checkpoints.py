"""The checkpoint that an architecture is studied with: the given one, or one that is fine-tuned for the study."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from optimizer_svc.environment import packages
from optimizer_svc.finetune import FinetuneProgress, finetune
from optimizer_svc.splits import read_splits
from optimizer_svc.study.spec import Task
from optimizer_svc.weights import file_sha256
from optimizer_svc.workspace import content_key


def checkpoint_of(task: Task, folder: Path, progress: Callable[[str, float], None]) -> Path:
    """The checkpoint file; one that was fine-tuned from the same input before is found again in `folder`.

    `progress` hears a sentence and the share that is done. Raises InvalidInput.
    """
    if task.checkpoint is not None:
        return task.checkpoint
    splits = read_splits(task.data, task.labels, seed=task.seed)
    key = {
        "architecture": task.architecture,
        "weights": task.weights and file_sha256(task.weights),
        "labels": [label.name for label in task.labels],
        "train": splits.train.fingerprint,
        "val": splits.val.fingerprint,
        "epochs": task.epochs,
        "input_px": task.input_px,
        "seed": task.seed,
        "packages": packages(),
    }
    path = folder / f"finetuned-{content_key(key)[:16]}.safetensors"
    if path.is_file():
        return path

    def say(step: FinetuneProgress) -> None:
        text = f"Fine-tuning, epoch {step.epoch} of {step.epochs}: {step.val_accuracy:.1%} on val"
        progress(text, step.epoch / step.epochs)

    progress("Fine-tuning: reading the data", 0.0)
    unfinished = folder / "finetuning.safetensors"
    finetune(
        task.data,
        architecture=task.architecture,
        output=unfinished,
        labels=task.labels,
        weights=task.weights,
        epochs_unfrozen=task.epochs,
        input_px=task.input_px,
        seed=task.seed,
        progress=say,
    )
    unfinished.with_suffix(".history.json").rename(path.with_suffix(".history.json"))
    unfinished.rename(path)
    return path
