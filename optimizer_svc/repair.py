"""Repairs of a fast network whose accuracy int8 cost: its worst layers in fp32, then training with rounded weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from optimizer_svc.batches import normalise, unit
from optimizer_svc.candidates import FP32, Candidate, Workshop, calibration_tiles, sound
from optimizer_svc.evaluate import Trial
from optimizer_svc.ingest import Ingested
from optimizer_svc.ladder import Ladder
from optimizer_svc.networks import ORIGINAL, Network
from optimizer_svc.pace import Pace
from optimizer_svc.proxies import look
from optimizer_svc.quantization import LayerSensitivity, keep_fp32, layer_sensitivity
from optimizer_svc.quantization.aware import fake_quantization
from optimizer_svc.search import Search
from optimizer_svc.spec import OptimizationSpec, Stage
from optimizer_svc.workspace import Kept, Workspace

# So many of the most sensitive layers are taken back to fp32, one try after the other.
FALLBACKS = (1, 3, 6)
SENSITIVITY_TILES = 24
SENSITIVITY_S, SENSITIVITY_SHARE = 25.0, 0.05  # of the budget, at most
AWARE_RECIPES = 2


class Repair:
    """What is tried for networks that keep the checkpoint's accuracy in fp32 and lose it in int8."""

    def __init__(
        self,
        search: Search,
        ladder: Ladder,
        spec: OptimizationSpec,
        ingested: Ingested,
        workspace: Workspace,
        pace: Pace,
    ) -> None:
        self._search = search
        self._workshop: Workshop = search.workshop
        self._ladder = ladder
        self._spec = spec
        self._ingested = ingested
        self._workspace = workspace
        self._pace = pace

    def run(self, networks: Sequence[Network]) -> tuple[Network, ...]:
        """Repairs the narrowest network that needs it, where there is time; the networks that training added."""
        broken = self._broken(networks)
        if broken is None:
            return ()
        best = max(self._int8_of(broken), key=lambda trial: trial.snr_db or 0.0, default=None)
        if best is None:
            return ()
        plan = self._plan(broken)
        if "fallback" in plan and self._fall_back(best):
            return ()
        if "aware" in plan:
            return (self._train(broken),)
        return ()

    def sensitivity(self, candidate: Candidate) -> tuple[LayerSensitivity, ...]:
        """What each int8 layer of a candidate costs, worst first; () in fp32."""
        if not candidate.quantization:
            return ()
        fp32 = self._workshop.fp32(candidate.network)[0]

        def make() -> Kept:
            found = layer_sensitivity(
                fp32.model,
                candidate.model,
                calibration_tiles(self._ingested, SENSITIVITY_TILES),
                should_stop=self._pace.should_stop,
                deadline_s=min(SENSITIVITY_S, SENSITIVITY_SHARE * self._spec.budget_minutes * 60),
            )
            return Kept({"layers": [asdict(layer) for layer in found]}, {})

        key = {**self._ingested.identity, "fp32": fp32.digest, "int8": candidate.digest}
        rows = self._workspace.once("sensitivity", key, make).facts["layers"]
        return tuple(LayerSensitivity(**row) for row in rows)

    def _broken(self, networks: Sequence[Network]) -> Network | None:
        """The narrowest network that is accepted in fp32 and in no int8 form, if that is not all there is."""
        for network in sorted(networks, key=lambda n: n.macs):
            trials = [t for t in self._search.trials if t.candidate.network.name == network.name]
            whole = any(t.accepted for t in trials if t.candidate.recipe == FP32)
            if any(t.accepted for t in trials if t.candidate.recipe != FP32):
                return None
            if whole and network.name != ORIGINAL:
                return network
        return next((n for n in networks if n.name == ORIGINAL), None)

    def _int8_of(self, network: Network) -> list[Trial]:
        return [
            trial
            for trial in self._search.trials
            if trial.candidate.network.name == network.name and trial.candidate.quantization and trial.candidate.model
        ]

    def _plan(self, network: Network) -> list[str]:
        """Which repairs there is time for; kept, so that a run that goes on decides the same."""
        key = {**self._ingested.identity, "network": network.digest, "budget_minutes": self._spec.budget_minutes}

        def make() -> Kept:
            steps = ["fallback"] if self._pace.clock() < self._pace.repair_deadline else []
            if steps and self._spec.quantization_aware and self._spec.distill_epochs:
                steps.append("aware")
            return Kept({"steps": steps}, {})

        steps: list[str] = self._workspace.once("repairs", key, make).facts["steps"]
        return steps

    def _fall_back(self, best: Trial) -> bool:
        """True when one of the candidates with a few layers in fp32 is accepted."""
        layers = [layer.layer for layer in self.sensitivity(best.candidate)]
        fp32 = self._workshop.fp32(best.candidate.network)
        for count in FALLBACKS:
            if count > len(layers):
                break
            self._pace.say(Stage.QUANTIZE, f"{count} layers of {best.candidate.network.name} back to fp32")
            mixed = self._mixed(best.candidate, fp32[0], layers[:count])
            made = list(sound(self._workshop.on_every_engine(mixed)))
            proxies = look(fp32[0], made, self._ingested, self._workspace, self._pace, self._spec.seed)
            trials = [self._search.validate(proxy) for proxy in proxies]
            if any(trial.accepted for trial in trials):
                return True
        return False

    def _mixed(self, int8: Candidate, fp32: Candidate, layers: list[str]) -> Candidate:
        key: dict[str, Any] = {"fp32": fp32.digest, "int8": int8.digest, "layers": layers}

        def make() -> Kept:
            return Kept({}, {"model.onnx": keep_fp32(fp32.model, int8.model, layers)})

        model = self._workspace.once("mixed", {**self._ingested.identity, **key}, make).files["model.onnx"]
        count = len(layers)
        return replace(
            int8,
            recipe=f"{int8.recipe}+{count}fp32",
            title=f"{int8.title}, {count} most sensitive {'layer' if count == 1 else 'layers'} in fp32",
            model=model,
            quantization={**int8.quantization, "fp32_layers": layers},
        )

    def _train(self, network: Network) -> Network:
        """Distils the network with rounded weights and tries the best recipes on what comes out."""
        key = {**self._ingested.identity, "aware": network.digest, "epochs": self._spec.distill_epochs}
        key["budget_minutes"] = self._spec.budget_minutes
        name = f"{network.name} aware"
        seen = torch.from_numpy(calibration_tiles(self._ingested, SENSITIVITY_TILES))
        inputs = normalise(unit(seen), self._ingested.checkpoint.input)
        trained = self._ladder.retrain(network, name, "aware", key, lambda model: fake_quantization(model, [inputs]))
        tried = sorted(self._int8_of(network), key=lambda trial: -(trial.snr_db or 0.0))
        recipes = list(dict.fromkeys(t.candidate.recipe for t in tried if "+" not in t.candidate.recipe))
        fp32 = self._workshop.fp32(trained)
        self._search.try_recipes(fp32, recipes[:AWARE_RECIPES])
        return trained
