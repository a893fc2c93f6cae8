"""Transfer learning: a feature extractor with a new head first, then the whole network."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import timm
import torch
from safetensors.torch import save
from torch import nn

from gramserve.errors import InvalidInput, Reason
from gramserve.output_file import check_place, part_of
from gramserve.store.manifest import Label
from optimizer_svc.architecture import InputSpec, build_model, check_architecture, classifier_names, default_input
from optimizer_svc.checkpoint import load_checkpoint, load_state
from optimizer_svc.dataset import load_tiles, preprocessing_for
from optimizer_svc.labels import read_labels
from optimizer_svc.losses import Loss, class_weights, distillation_loss, label_loss
from optimizer_svc.splits import class_folders, read_splits
from optimizer_svc.teacher import Teacher, adapted
from optimizer_svc.tiles import TileSet
from optimizer_svc.train import Epoch, TrainPlan, predict, score, train
from optimizer_svc.weights import METADATA_KEY, read_weights

LABELS_FILE = "labels.yaml"
TEACHER_VIEWS = 24


@dataclass(frozen=True, slots=True)
class FinetuneProgress:
    """One finished epoch: `epoch` of `epochs` counts through both phases; accuracy and loss are of the val tiles."""

    phase: Literal["frozen", "unfrozen"]
    epoch: int
    epochs: int
    train_loss: float
    val_accuracy: float
    val_loss: float
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class FinetuneResult:
    """The checkpoint at `output`, of the epoch with the best `val_accuracy` on `val_tiles` tiles."""

    output: Path
    labels: tuple[str, ...]
    best_epoch: int
    val_accuracy: float
    val_tiles: int
    train_tiles: int
    input_px: int
    elapsed_s: float
    history: tuple[FinetuneProgress, ...]


def finetune(
    data: Path,
    *,
    architecture: str,
    output: Path,
    labels: tuple[Label, ...] | None = None,
    weights: Path | None = None,
    teacher: Path | None = None,
    epochs_frozen: int | None = None,
    epochs_unfrozen: int | None = None,
    input_px: int | None = None,
    seed: int = 0,
    progress: Callable[[FinetuneProgress], None] = lambda _progress: None,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> FinetuneResult:
    """Fine-tunes the timm `architecture` on the ImageFolder `data` and writes a safetensors checkpoint to `output`.

    The order of the model's outputs is that of `labels`; without them that of `data`/labels.yaml, else the sorted class
    folders. `weights` is a checkpoint of the same architecture (its classifier is replaced); without it training starts
    from random weights. `teacher` is a checkpoint of any architecture that `finetune` wrote for the same labels: the
    network learns its answers, which helps most where there are no weights to start from. Epochs default to 2 frozen
    and 8 unfrozen with weights, and to 0 and 25 without (40 with a teacher). Beside `output` lies its .history.json.
    Raises InvalidInput (architecture, weights, teacher, labels, data), OSError where `output` cannot be written, both
    before the training, and Stopped.
    """
    started = clock()
    check_architecture(architecture)
    output.parent.mkdir(parents=True, exist_ok=True)
    check_place(output)  # better said now than after the training
    labels = labels or labels_of(data)
    spec = _input_spec(architecture, weights, input_px)
    splits = read_splits(data, labels, seed=seed)
    preprocessing = preprocessing_for(splits.train, labels, spec.px)
    tiles = load_tiles(splits.train, labels, preprocessing, should_stop=should_stop)
    val = load_tiles(splits.val, labels, preprocessing, should_stop=should_stop)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(architecture, len(labels), spec.px).to(memory_format=torch.channels_last)
    master = None if teacher is None else _teacher(teacher, labels, spec, len(tiles), seed)
    plans = _plans(model, weights, epochs_frozen, epochs_unfrozen, seed, master)
    history = _fit(model, tiles, val, spec, plans, master, progress=progress, should_stop=should_stop, clock=clock)
    accuracy, _ = score(predict(model, val.tiles, spec), val.targets)
    names = tuple(label.name for label in labels)
    result = FinetuneResult(
        output=output,
        labels=names,
        best_epoch=_best(history),
        val_accuracy=accuracy,
        val_tiles=len(val),
        train_tiles=len(tiles),
        input_px=spec.px,
        elapsed_s=clock() - started,
        history=history,
    )
    _write(model, architecture, spec, labels, result)
    return result


def _fit(
    model: nn.Module,
    tiles: TileSet,
    val: TileSet,
    spec: InputSpec,
    plans: list[TrainPlan],
    teacher: Teacher | None,
    *,
    progress: Callable[[FinetuneProgress], None],
    should_stop: Callable[[], bool],
    clock: Callable[[], float],
) -> tuple[FinetuneProgress, ...]:
    """Runs the phases one after the other; each goes on from the best epoch of the one before."""
    started = clock()
    balance = class_weights(tiles.targets.tolist(), int(tiles.targets.max()) + 1)
    loss: Loss = label_loss(balance) if teacher is None else distillation_loss(teacher, balance)
    epochs = sum(plan.epochs for plan in plans)
    history: list[FinetuneProgress] = []

    def report(phase: Literal["frozen", "unfrozen"]) -> Callable[[Epoch], None]:
        before = len(history)

        def on_epoch(epoch: Epoch) -> None:
            number = before + epoch.number
            facts = (epoch.train_loss, epoch.val_accuracy, epoch.val_loss, clock() - started)
            history.append(FinetuneProgress(phase, number, epochs, *facts))
            progress(history[-1])

        return on_epoch

    for plan in plans:
        on_epoch = report("frozen" if plan.frozen else "unfrozen")
        train(model, tiles, val, spec, plan, loss, on_epoch=on_epoch, should_stop=should_stop, clock=clock)
    return tuple(history)


def _teacher(path: Path, labels: tuple[Label, ...], spec: InputSpec, tiles: int, seed: int) -> Teacher:
    _, metadata, _ = read_weights(path)
    architecture = metadata.get("architecture")
    if not isinstance(architecture, str):
        raise InvalidInput(
            Reason.CHECKPOINT_MISMATCH, "the teacher does not say what architecture it is: fine-tune one with gramserve"
        )
    checkpoint = load_checkpoint(path, architecture, labels)
    return Teacher(adapted(checkpoint.model, checkpoint.input, spec), tiles, views=TEACHER_VIEWS, seed=seed)


def _plans(
    model: nn.Module,
    weights: Path | None,
    frozen: int | None,
    unfrozen: int | None,
    seed: int,
    teacher: Teacher | None,
) -> list[TrainPlan]:
    if weights is None:
        epochs = (25 if teacher is None else 40) if unfrozen is None else unfrozen
        plans = [TrainPlan(epochs, 4e-3 if teacher is None else 2e-3, batch=16, seed=seed)]
    else:
        head = classifier_names(model)
        state, _, _ = read_weights(weights)
        load_state(model, state, skip=head)
        _zero(model, head)
        plans = [
            TrainPlan(2 if frozen is None else frozen, 2e-3, frozen=head, seed=seed),
            TrainPlan(8 if unfrozen is None else unfrozen, 5e-4, seed=seed + 1),
        ]
    if teacher is not None:  # a view must look as the teacher saw it
        plans = [replace(plan, views=teacher.views, seed=teacher.seed) for plan in plans]
    return [plan for plan in plans if plan.epochs > 0]


def _zero(model: nn.Module, names: tuple[str, ...]) -> None:
    """A new head starts from zero: random logits of an untrained one would only have to be unlearned."""
    for name in names:
        for parameter in model.get_submodule(name).parameters():
            nn.init.zeros_(parameter)


def _input_spec(architecture: str, weights: Path | None, input_px: int | None) -> InputSpec:
    default = default_input(architecture)
    if weights is None:
        # Random weights are used to no particular statistics; one half is simple and right for light backgrounds.
        return InputSpec(input_px or default.px, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return InputSpec(input_px or default.px, default.mean, default.std)


def labels_of(data: Path) -> tuple[Label, ...]:
    """The labels of a data folder: its labels.yaml, else its class folders."""
    if (data / LABELS_FILE).is_file():
        return read_labels(data / LABELS_FILE)
    # Roles are not known here and not needed: the optimizer asks for a labels file that gives them.
    return tuple(Label(name=name, kind="organism") for name in class_folders(data))


def _best(history: tuple[FinetuneProgress, ...]) -> int:
    """The epoch whose weights were kept: the best of the last phase."""
    last = [p for p in history if p.phase == history[-1].phase] if history else []
    return max(last, key=lambda p: (p.val_accuracy, -p.val_loss)).epoch if last else 0


def _write(
    model: nn.Module, architecture: str, spec: InputSpec, labels: tuple[Label, ...], result: FinetuneResult
) -> None:
    metadata = {
        "architecture": architecture,
        "labels": list(result.labels),
        "input_px": spec.px,
        "mean": spec.mean,
        "std": spec.std,
        "timm": timm.__version__,
    }
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    part = part_of(result.output)  # an earlier checkpoint of that name stays until this one is whole
    part.write_bytes(save(state, metadata={METADATA_KEY: json.dumps(metadata)}))
    part.replace(result.output)
    history = {
        "architecture": architecture,
        "labels": [label.model_dump(mode="json", exclude_none=True) for label in labels],
        "best_epoch": result.best_epoch,
        "val_accuracy": result.val_accuracy,
        "epochs": [asdict(epoch) for epoch in result.history],
    }
    result.output.with_suffix(".history.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
