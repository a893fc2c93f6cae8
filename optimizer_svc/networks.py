"""The networks that candidates are made from: the checkpoint's own and its pruned, recovered copy."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.torch import load, save
from torch import nn

from optimizer_svc.architecture import build_model
from optimizer_svc.distill import distill
from optimizer_svc.ingest import Ingested
from optimizer_svc.pace import Pace
from optimizer_svc.prune import CannotPrune, count, prune
from optimizer_svc.spec import OptimizationSpec, Stage
from optimizer_svc.train import Epoch
from optimizer_svc.widths import Widths, apply_widths
from optimizer_svc.workspace import Kept, Workspace

ORIGINAL, PRUNED = "original", "pruned"


@dataclass(frozen=True, slots=True)
class Network:
    """A network in fp32: its multiply-accumulates for one tile, parameters, and the widths that pruning changed.

    `facts` says how it was made: share of channels cut, epochs of distillation with their val accuracy; `digest` is the
    SHA-256 of its weights.
    """

    name: str
    model: nn.Module
    macs: int
    parameters: int
    widths: Widths
    facts: dict[str, Any]
    digest: str


def original(ingested: Ingested) -> Network:
    """The checkpoint as it came."""
    macs, parameters = count(ingested.checkpoint.model, ingested.checkpoint.input.px)
    return Network(ORIGINAL, ingested.checkpoint.model, macs, parameters, {}, {}, ingested.checkpoint.sha256)


def pruned(
    base: Network, spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace
) -> tuple[Network | None, str]:
    """A pruned copy that distillation brought back, or None and the reason why there is none."""
    if spec.prune_macs >= 1 or spec.distill_epochs < 1:
        return None, "pruning was not asked for"
    key = {**ingested.identity, "prune_macs": spec.prune_macs, "epochs": spec.distill_epochs}
    key["budget_minutes"] = spec.budget_minutes  # it decides how many epochs there are

    def make() -> Kept:
        try:
            cut = prune(base.model, ingested.checkpoint.input.px, spec.prune_macs)
        except CannotPrune as reason:
            return Kept({"reason": str(reason)}, {})
        pace.say(Stage.PRUNE, f"Cut {cut.ratio:.0%} of the channels: {cut.macs / base.macs:.0%} of the work is left")
        epochs: list[Epoch] = []

        def on_epoch(epoch: Epoch) -> None:
            epochs.append(epoch)
            done = f"Distillation, epoch {epoch.number} of at most {spec.distill_epochs}"
            pace.say(Stage.PRUNE, f"{done}: {epoch.val_accuracy:.1%} on val", epoch.number / spec.distill_epochs)

        distill(
            cut.model,
            base.model,
            ingested.train,
            ingested.val,
            ingested.checkpoint.input,
            epochs=spec.distill_epochs,
            seed=spec.seed,
            on_epoch=on_epoch,
            should_stop=pace.should_stop,
            clock=pace.clock,
            deadline=pace.training_deadline,
        )
        facts = {
            "ratio": cut.ratio,
            "macs": cut.macs,
            "parameters": cut.parameters,
            "widths": cut.widths,
            "epochs": [[e.number, e.train_loss, e.val_accuracy, e.val_loss] for e in epochs],
        }
        state = {name: tensor.contiguous() for name, tensor in cut.model.state_dict().items()}
        return Kept(facts, {"weights.safetensors": save(state)})

    kept = workspace.once("prune", key, make)
    if "reason" in kept.facts:
        return None, str(kept.facts["reason"])
    state = load(kept.files["weights.safetensors"])
    model = build_model(spec.architecture, len(spec.labels), ingested.checkpoint.input.px)
    apply_widths(model, kept.facts["widths"], {name: tensor.shape for name, tensor in state.items()})
    model.load_state_dict(state)
    facts = {"ratio": kept.facts["ratio"], "epochs": kept.facts["epochs"]}
    recovered = Network(
        name=PRUNED,
        model=model.eval(),
        macs=kept.facts["macs"],
        parameters=kept.facts["parameters"],
        widths=kept.facts["widths"],
        facts=facts,
        digest=hashlib.sha256(kept.files["weights.safetensors"]).hexdigest(),
    )
    return recovered, ""


def probe(ingested: Ingested, size: int = 16) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Training tiles of every class for the gates, uint8 [size, S, S, 3]; few tiles are repeated."""
    tiles = ingested.train.tiles
    return np.ascontiguousarray(tiles[np.linspace(0, len(tiles) - 1, size).astype(int)])
