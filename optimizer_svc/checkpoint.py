"""Safe loading of a laboratory's timm checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import Label
from optimizer_svc.architecture import (
    InputSpec,
    build_model,
    check_architecture,
    classifier_names,
    default_input,
    triple,
)
from optimizer_svc.weights import file_sha256, read_weights


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded checkpoint: `model` in eval mode, fp32, on the CPU; `fp32_bytes` are its weights at four bytes each."""

    model: nn.Module
    architecture: str
    sha256: str
    input: InputSpec
    parameters: int
    fp32_bytes: int
    notes: tuple[str, ...]


def load_checkpoint(
    path: Path,
    architecture: str,
    labels: Sequence[Label],
    *,
    input_px: int | None = None,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
) -> Checkpoint:
    """Loads `path` into the timm `architecture` with one output for each of `labels`; executes nothing from the file.

    Explicit `input_px`, `mean`, `std` win over the file's own metadata (written by `gramserve finetune`), which wins
    over timm's defaults of the architecture. Raises InvalidInput: UNKNOWN_ARCHITECTURE, CHECKPOINT_UNREADABLE,
    CHECKPOINT_UNSAFE, CHECKPOINT_MISMATCH.
    """
    check_architecture(architecture)
    state, metadata, notes = read_weights(path)
    _check_metadata(metadata, architecture, labels)
    default = default_input(architecture)
    spec = InputSpec(
        px=input_px or int(metadata.get("input_px", default.px)),
        mean=mean or triple(metadata.get("mean", default.mean)),
        std=std or triple(metadata.get("std", default.std)),
    )
    model = build_model(architecture, len(labels), spec.px)
    _check_head(model, state, labels)
    load_state(model, state)
    model.eval()
    parameters = sum(p.numel() for p in model.parameters())
    return Checkpoint(model, architecture, file_sha256(path), spec, parameters, parameters * 4, tuple(notes))


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, skip: Sequence[str] = ()) -> None:
    """Loads `state` into `model`; parameters below the modules `skip` keep their values.

    Raises InvalidInput CHECKPOINT_MISMATCH that names a few missing, unexpected or differently shaped weights.
    """
    kept = {name: t for name, t in state.items() if not _below(name, skip)}
    own = model.state_dict()
    missing = [n for n in own if n not in kept and not _below(n, skip) and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in kept if n not in own]
    shaped = [n for n, t in kept.items() if n in own and own[n].shape != t.shape]
    if missing or unexpected or shaped:
        facts = [
            f"{len(names)} {what} (such as {', '.join(names[:3])})"
            for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shaped))
            if names
        ]
        raise InvalidInput(
            Reason.CHECKPOINT_MISMATCH,
            f"the weights are not of this architecture: {'; '.join(facts)}",
            metadata={"missing": str(len(missing)), "unexpected": str(len(unexpected)), "reshaped": str(len(shaped))},
        )
    model.load_state_dict({n: t.to(own[n].dtype) for n, t in kept.items()}, strict=False)


def _check_metadata(metadata: Mapping[str, Any], architecture: str, labels: Sequence[Label]) -> None:
    made_for = metadata.get("architecture", architecture)
    if str(made_for).split(".", 1)[0] != architecture.split(".", 1)[0]:
        raise _mismatch(f"the checkpoint says that it is of the architecture {str(made_for)[:60]}")
    names = [label.name for label in labels]
    own = metadata.get("labels", names)
    if isinstance(own, list) and len(own) == len(names) and own != names:
        raise _mismatch(f"the checkpoint says that its labels are, in order, {', '.join(map(str, own))[:200]}")


def _check_head(model: nn.Module, state: Mapping[str, Tensor], labels: Sequence[Label]) -> None:
    for name in classifier_names(model):
        weight = state.get(f"{name}.weight")
        if weight is not None and weight.shape[0] != len(labels):
            raise InvalidInput(
                Reason.CHECKPOINT_MISMATCH,
                f"the checkpoint has {weight.shape[0]} classes, the labels file has {len(labels)}",
                metadata={"checkpoint_classes": str(weight.shape[0]), "labels": str(len(labels))},
            )


def _below(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _mismatch(message: str) -> InvalidInput:
    return InvalidInput(Reason.CHECKPOINT_MISMATCH, message)
