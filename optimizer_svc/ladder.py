"""Pruning step by step: each narrower network begins where the last one, partly recovered, ended."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from optimizer_svc.acceptance import Rules, compare
from optimizer_svc.batches import batches
from optimizer_svc.distill import distill
from optimizer_svc.evaluate import baseline
from optimizer_svc.families import family_of
from optimizer_svc.ingest import Ingested
from optimizer_svc.losses import class_weights, label_loss
from optimizer_svc.networks import Network, keep_network, kept_network
from optimizer_svc.pace import Pace
from optimizer_svc.prune import CannotPrune, prune
from optimizer_svc.spec import OptimizationSpec, Stage
from optimizer_svc.teacher import Teacher
from optimizer_svc.train import Epoch, predict
from optimizer_svc.workspace import Kept, Workspace

# Shares of the checkpoint's multiply-accumulates that are tried one after the other: about half of the last each time.
RUNGS = (0.5, 0.3, 0.16, 0.08, 0.04)
LARGEST_STEP = 0.45
SHORT_EPOCHS = 5
PATIENCE = 10
# A network that is further below the checkpoint after a short recovery is not made narrower still, and one that is
# further below than this is recovered in full only after the others.
HOPELESS, PROMISING = 0.15, 0.05
# The way down may take so much of the training time; the rest is for full recoveries, narrowest first.
DESCENT_SHARE = 0.45
# So many recovered networks that keep the checkpoint's accuracy are enough: the narrowest, and one to fall back on.
ENOUGH = 2
# Pretrained transformers unlearn at the rate that convolutional networks like.
CONVOLUTION_RATE, TRANSFORMER_RATE = 1e-3, 5e-4
GRADIENT_TILES = 64
# What ended its process so often, a native library's fault, is not tried again.
MOST_CRASHES = 2


@dataclass(frozen=True, slots=True)
class _Step:
    """A network on the ladder with the stage and key that it is kept under.

    `accuracy` is that on val; `keeps` that nothing speaks against it beside the checkpoint.
    """

    network: Network
    share: float
    stage: str
    key: dict[str, Any]
    accuracy: float
    keeps: bool

    @property
    def name(self) -> str:
        return self.network.name


class Ladder:
    """Makes pruned networks for one checkpoint, within the training time of `pace`."""

    def __init__(
        self, base: Network, spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace
    ) -> None:
        self._base = base
        self._spec = spec
        self._ingested = ingested
        self._workspace = workspace
        self._pace = pace
        self._teacher = Teacher(base.model, len(ingested.train), seed=spec.seed)
        self._transformer = family_of(base.model, spec.architecture).transformer
        self._called = baseline(ingested, workspace).argmax(axis=1)
        self._accuracy = float((self._called == ingested.val.targets).mean())

    def climb_down(self) -> tuple[tuple[Network, ...], str]:
        """The pruned networks, widest first, or none and the reason why."""
        if self._spec.prune_macs == 1 or self._spec.distill_epochs < 1:
            return (), "pruning was not asked for"
        key = {
            **self._key(self._base, 0.0),
            "shares": rungs(self._spec.prune_macs),
            "budget_minutes": self._spec.budget_minutes,  # it decides how far down there is time to go
        }

        def make() -> Kept:
            steps, reason = self._descend()
            steps = self._recover(steps)
            return Kept({"steps": [[s.name, s.share, s.stage, s.key] for s in steps], "reason": reason}, {})

        found = self._workspace.once("ladder", key, make).facts
        networks = [self._load(name, stage, key) for name, _, stage, key in found["steps"]]
        return tuple(networks), "" if networks else str(found["reason"])

    def retrain(
        self, network: Network, name: str, stage: str, key: dict[str, Any], around: Callable[[nn.Module], Any]
    ) -> Network:
        """A copy of `network` after distillation inside the context `around` gives, kept as `stage` under `key`."""

        def make() -> Kept:
            model = copy.deepcopy(network.model)
            with around(model):
                epochs = self._distill(
                    model, name, self._spec.distill_epochs, self._pace.repair_deadline, rate=0.3 * self._rate
                )
            unpruned = {"keep_macs": 1.0, "importance": "", "scope": "", "ratio": 0.0}
            own = {"parent": network.name, "epochs": epochs, "quantization_aware": True}
            facts = {**unpruned, **network.facts, **own}
            return keep_network(model, network.macs, network.parameters, network.widths, facts)

        self._workspace.once(stage, key, make)
        return self._load(name, stage, key)

    def _descend(self) -> tuple[list[_Step], str]:
        """Prunes and recovers shortly, rung by rung, while it looks worthwhile and there is time."""
        steps: list[_Step] = []
        parent, reason = self._base, ""
        for share in rungs(self._spec.prune_macs):
            key = self._key(parent, share)
            if self._workspace.begun("prune", key) >= MOST_CRASHES:
                reason = f"narrowing it to {share:.0%} ended its process {MOST_CRASHES} times"
                break
            kept = self._workspace.once("prune", key, lambda p=parent, s=share: self._cut(p, s))  # type: ignore[misc]
            if "reason" in kept.facts:
                reason = str(kept.facts["reason"])
                break
            step = self._step(f"pruned {share:.0%}", share, "prune", key)
            steps.append(step)
            parent = step.network
            if step.accuracy < self._accuracy - HOPELESS and self._spec.prune_macs is None:
                break
            if self._pace.clock() > self._pace.training_time(DESCENT_SHARE):
                break
        return steps, reason

    def _recover(self, steps: Sequence[_Step]) -> list[_Step]:
        """Recovers promising networks fully, narrowest first, until enough of them keep the checkpoint's accuracy.

        What comes back are those that do, and the others that were tried; widest first.
        """
        final = {step.share: step for step in steps if step.keeps}
        good = 0
        left = sorted(steps, key=lambda step: (step.accuracy < self._accuracy - PROMISING, step.share))
        for i, step in enumerate(left):
            first = i == 0
            if good >= ENOUGH or (not first and self._pace.clock() >= self._pace.training_deadline):
                break
            key = {**step.key, "recover": step.network.digest, "epochs": self._spec.distill_epochs}
            # The narrowest may use what is left but for a share that the next one needs if this one fails.
            share = 0.8 if first and len(left) > 1 else 1.0
            deadline = self._pace.training_time(share)
            self._workspace.once("recover", key, lambda s=step, d=deadline: self._finish(s, d))  # type: ignore[misc]
            done = self._step(step.name, step.share, "recover", key)
            good += done.keeps
            if done.keeps or step.share not in final:
                final[step.share] = done
        return [final[share] for share in sorted(final, reverse=True)]

    def _cut(self, parent: Network, share: float) -> Kept:
        spec, base = self._spec, self._base
        self._pace.say(Stage.PRUNE, f"Cutting channels down to {share:.0%} of the work")
        try:
            cut = prune(
                parent.model,
                spec.architecture,
                self._ingested.checkpoint.input.px,
                min(1.0, share * base.macs / parent.macs),
                importance="taylor" if spec.importance == "taylor" else "magnitude",
                scope="isomorphic" if spec.scope == "isomorphic" else "uniform",
                backward=self._gradients,
            )
        except CannotPrune as reason:
            return Kept({"reason": str(reason)}, {})
        deadline = self._pace.training_time(DESCENT_SHARE)
        epochs = self._distill(cut.model, f"pruned {share:.0%}", min(SHORT_EPOCHS, spec.distill_epochs), deadline)
        facts = {
            "parent": parent.name,
            "keep_macs": share,
            "importance": spec.importance,
            "scope": spec.scope,
            "ratio": cut.ratio,
            "epochs": epochs,
            "quantization_aware": False,
        }
        return keep_network(cut.model, cut.macs, cut.parameters, cut.widths, facts)

    def _finish(self, step: _Step, deadline: float) -> Kept:
        network = step.network
        model = copy.deepcopy(network.model)
        epochs = self._distill(model, step.name, self._spec.distill_epochs, deadline)
        before = [tuple(e) for e in network.facts["epochs"]]
        together = [*before, *((len(before) + e[0], *e[1:]) for e in epochs)]
        facts = {**network.facts, "epochs": [list(e) for e in together]}
        return keep_network(model, network.macs, network.parameters, network.widths, facts)

    def _distill(
        self, model: nn.Module, name: str, epochs: int, deadline: float, rate: float | None = None
    ) -> list[list[float]]:
        """Distils `model` in place; its epochs as [number, train loss, val accuracy, val loss]."""
        pace, ingested = self._pace, self._ingested
        history: list[list[float]] = []

        def on_epoch(epoch: Epoch) -> None:
            history.append([epoch.number, epoch.train_loss, epoch.val_accuracy, epoch.val_loss])
            text = f"Distillation of {name}, epoch {epoch.number} of at most {epochs}: {epoch.val_accuracy:.1%} on val"
            pace.say(Stage.PRUNE, text, pace.trained)

        distill(
            model,
            self._teacher,
            ingested.train,
            ingested.val,
            ingested.checkpoint.input,
            epochs=epochs,
            learning_rate=rate or self._rate,
            patience=PATIENCE,
            on_epoch=on_epoch,
            should_stop=pace.should_stop,
            clock=pace.clock,
            deadline=deadline,
        )
        return history

    def _gradients(self, model: nn.Module) -> None:
        """Leaves in `model` the gradients of the labels' loss over some training tiles, for Taylor importance."""
        ingested, seed = self._ingested, self._spec.seed
        loss = label_loss(class_weights(ingested.train.targets.tolist(), len(self._spec.labels)))
        order = torch.Generator().manual_seed(seed)
        seen = 0
        for batch in batches(
            ingested.train, ingested.checkpoint.input, 16, order, seed=seed, number=0, device=torch.device("cpu")
        ):
            loss(batch, model(batch.inputs)).backward()  # type: ignore[no-untyped-call]
            seen += len(batch.rows)
            if seen >= GRADIENT_TILES:
                break

    def _step(self, name: str, share: float, stage: str, key: dict[str, Any]) -> _Step:
        """The network that `stage` kept under `key`, with its answers on val in torch held against the checkpoint's."""
        network = self._load(name, stage, key)
        spec, val = self._spec, self._ingested.val
        called = predict(network.model, val.tiles, self._ingested.checkpoint.input).argmax(axis=1)
        rules = Rules(spec.margin, spec.recall_margin, allow_unproved=True)
        comparison = compare(self._called, called, val.targets, spec.labels, rules)
        return _Step(network, share, stage, key, comparison.accuracy, comparison.accepted)

    @property
    def _rate(self) -> float:
        return TRANSFORMER_RATE if self._transformer else CONVOLUTION_RATE

    def _load(self, name: str, stage: str, key: dict[str, Any]) -> Network:
        kept = self._workspace.kept(stage, key)
        spec = self._spec
        return kept_network(name, kept, spec.architecture, len(spec.labels), self._ingested.checkpoint.input.px)

    def _key(self, parent: Network, share: float) -> dict[str, Any]:
        spec = self._spec
        how = {"importance": spec.importance, "scope": spec.scope, "epochs": min(SHORT_EPOCHS, spec.distill_epochs)}
        return {**self._ingested.identity, **how, "parent": parent.digest, "share": share}


def rungs(prune_macs: float | None) -> tuple[float, ...]:
    """The shares of multiply-accumulates to go down by: the search's own, or even steps to the one asked for."""
    if prune_macs is None:
        return RUNGS
    count = max(1, math.ceil(math.log(prune_macs) / math.log(LARGEST_STEP) - 1e-9))
    return tuple(round(prune_macs ** (i / count), 4) for i in range(1, count + 1))
