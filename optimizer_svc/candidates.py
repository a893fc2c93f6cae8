"""Candidates: a network in fp32 or int8, run by one engine, through the gates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import InvalidInput, Reason
from gramserve.runtime.engines import BF16, engine_options
from gramserve.store.manifest import EngineSettings
from optimizer_svc.export import export
from optimizer_svc.gates import failed_gate, too_large
from optimizer_svc.ingest import Ingested
from optimizer_svc.networks import Network, probe
from optimizer_svc.quantization import RECIPES, CannotQuantize, quantize
from optimizer_svc.spec import OptimizationSpec
from optimizer_svc.workspace import Kept, Workspace

FP32 = "fp32"
BF16_ENGINE = "openvino-bf16"
MAX_CALIBRATION_TILES = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of the search: a network, a recipe (`fp32`, or a name of RECIPES and what was changed) and an engine.

    `model` is the ONNX file, empty when it could not be made; `failure` says why it is out of the race, or is "".
    `title` says the recipe in words; `quantization` is what the manifest says of it.
    """

    network: Network
    recipe: str
    engine: EngineSettings
    model: bytes
    failure: str
    exporter: str
    parity: float
    title: str = FP32
    quantization: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For people and as a key: "pruned 16% int8_channel_wide openvino"."""
        return f"{self.network.name} {self.recipe} {engine_label(self.engine)}"

    @property
    def digest(self) -> str:
        """SHA-256 of the ONNX file."""
        return hashlib.sha256(self.model).hexdigest()

    @property
    def key(self) -> dict[str, Any]:
        """What its numbers depend on, JSON-ready."""
        return {"model": self.digest, "engine": self.engine.model_dump(mode="json")}


def engine_label(engine: EngineSettings) -> str:
    """The engine for people, with the settings that make it compute other numbers: "openvino bf16"."""
    settings = (
        str(value) if key == "INFERENCE_PRECISION_HINT" else f"{key.rpartition('.')[2]}={value}"
        for key, value in sorted(engine.settings.items())
    )
    return " ".join((engine.name, *settings))


def engines_for(spec: OptimizationSpec) -> tuple[EngineSettings, ...]:
    """The engines to try here; InvalidInput INVALID_FIELD for one that is not installed or not for this CPU.

    OpenVINO in bfloat16 computes other numbers: it is tried only when it is asked for, as BF16_ENGINE.
    """
    offered = [(BF16_ENGINE if option == BF16 else option.name, option) for option in engine_options(bf16=True)]
    names = tuple(dict.fromkeys(name for name, _ in offered))
    if unknown := sorted(set(spec.engines) - set(names)):
        raise InvalidInput(
            Reason.INVALID_FIELD,
            f"the engine {unknown[0]} is not installed, or not for this CPU; there is {', '.join(names)}",
            violations=[("engines", f"{unknown[0]} is not to be had")],
        )
    wanted = spec.engines or tuple(name for name in names if name != BF16_ENGINE)
    return tuple(option for name, option in offered if name in wanted)


def check_recipes(spec: OptimizationSpec) -> None:
    """InvalidInput INVALID_FIELD for a recipe that does not exist."""
    if unknown := sorted(set(spec.recipes) - set(RECIPES)):
        raise InvalidInput(
            Reason.INVALID_FIELD,
            f"there is no recipe {unknown[0]}; there are {', '.join(RECIPES)}",
            violations=[("recipes", f"{unknown[0]} is unknown")],
        )


class Workshop:
    """Makes candidates of networks and keeps what it made."""

    def __init__(
        self,
        spec: OptimizationSpec,
        ingested: Ingested,
        workspace: Workspace,
        engines: tuple[EngineSettings, ...],
        should_stop: Callable[[], bool],
    ) -> None:
        self._spec = spec
        self._ingested = ingested
        self._workspace = workspace
        self._engines = engines
        self._should_stop = should_stop
        self._probe = probe(ingested)

    def fp32(self, network: Network) -> tuple[Candidate, ...]:
        """The exported network on every engine; ArtifactInvalid PARITY_FAILED when it computes something else."""

        def make() -> Kept:
            exported = export(network.model, self._ingested.checkpoint.input, self._probe)
            return Kept({"exporter": exported.exporter, "parity": exported.parity}, {"model.onnx": exported.model})

        kept = self._workspace.once("export", self._key(network, FP32), make)
        facts = kept.facts
        first = Candidate(
            network, FP32, self._engines[0], kept.files["model.onnx"], "", facts["exporter"], facts["parity"]
        )
        return self.on_every_engine(first)

    def int8(self, fp32: Candidate, recipe: str, *, transformer: bool) -> tuple[Candidate, ...]:
        """The network of `fp32` quantized by `recipe`, on every engine."""

        def make() -> Kept:
            tiles = calibration_tiles(self._ingested)
            try:
                model = quantize(
                    fp32.model, RECIPES[recipe], tiles, transformer=transformer, should_stop=self._should_stop
                )
            except CannotQuantize as reason:
                return Kept({"failure": str(reason)}, {})
            return Kept({"failure": ""}, {"model.onnx": model})

        key = {**self._key(fp32.network, recipe), "fp32": fp32.digest, "transformer": transformer}
        kept = self._workspace.once("quantize", key, make)
        made = replace(
            fp32,
            recipe=recipe,
            model=kept.files.get("model.onnx", b""),
            failure=kept.facts["failure"],
            title=RECIPES[recipe].title,
            quantization=RECIPES[recipe].to_json(),
        )
        return self.on_every_engine(made)

    def on_every_engine(self, candidate: Candidate) -> tuple[Candidate, ...]:
        """The same file by every engine, each with its own gates."""
        return tuple(self._gated(replace(candidate, engine=engine)) for engine in self._engines)

    def _gated(self, candidate: Candidate) -> Candidate:
        if candidate.failure:
            return candidate

        def make() -> Kept:
            failure = too_large(candidate.model, self._ingested.checkpoint.parameters) or failed_gate(
                candidate.model, candidate.engine, self._probe, len(self._spec.labels)
            )
            return Kept({"failure": failure}, {})

        kept = self._workspace.once("gates", {**self._ingested.identity, **candidate.key}, make)
        return replace(candidate, failure=kept.facts["failure"])

    def _key(self, network: Network, recipe: str) -> dict[str, Any]:
        return {**self._ingested.identity, "network": network.digest, "recipe": recipe}


def calibration_tiles(ingested: Ingested, most: int = MAX_CALIBRATION_TILES) -> NDArray[np.uint8]:
    """Tiles of the training split, evenly over its classes: [up to `most`, S, S, 3]."""
    tiles = ingested.train.tiles
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), most)).astype(int))
    return np.ascontiguousarray(tiles[chosen])


def sound(candidates: tuple[Candidate, ...]) -> Iterator[Candidate]:
    """Those that no gate stopped."""
    return (candidate for candidate in candidates if not candidate.failure)
