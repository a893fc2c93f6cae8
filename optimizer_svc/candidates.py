"""The candidates of a search: every network in fp32 and in every int8 recipe, through the gates."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gramserve.errors import InvalidInput, Reason
from gramserve.store.manifest import EngineSettings
from optimizer_svc.export import export
from optimizer_svc.gates import failed_gate
from optimizer_svc.ingest import Ingested
from optimizer_svc.networks import Network, probe
from optimizer_svc.pace import Pace
from optimizer_svc.quantize import RECIPES, CannotQuantize, quantize
from optimizer_svc.spec import OptimizationSpec, Stage
from optimizer_svc.workspace import Kept, Workspace

FP32 = "fp32"
MAX_CALIBRATION_TILES = 256
# As the worker runs it: one thread for each process, a few tiles at once.
ENGINE = EngineSettings(name="onnxruntime", threads=1, batch_tiles=8)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One point of the search: a network, a recipe (`fp32` or a name in RECIPES) and an engine.

    `model` is the ONNX file, empty when it could not be made; `failure` says why it is out of the race, or is "".
    """

    network: Network
    recipe: str
    engine: EngineSettings
    model: bytes
    failure: str
    exporter: str
    parity: float

    @property
    def name(self) -> str:
        """For people and as a key: "pruned int8_channel_wide"."""
        return f"{self.network.name} {self.recipe}"

    @property
    def digest(self) -> str:
        """SHA-256 of the ONNX file."""
        return hashlib.sha256(self.model).hexdigest()


def recipe_names(spec: OptimizationSpec) -> tuple[str, ...]:
    """The int8 recipes to try; InvalidInput INVALID_FIELD for one that does not exist."""
    if unknown := sorted(set(spec.recipes) - set(RECIPES)):
        raise InvalidInput(
            Reason.INVALID_FIELD,
            f"there is no recipe {unknown[0]}; there are {', '.join(RECIPES)}",
            violations=[("recipes", f"{unknown[0]} is unknown")],
        )
    return spec.recipes or tuple(RECIPES)


def build_candidates(
    networks: list[Network], spec: OptimizationSpec, ingested: Ingested, workspace: Workspace, pace: Pace
) -> list[Candidate]:
    """Exports every network and quantizes it by every recipe; PARITY_FAILED when an export computes something else."""
    made: list[Candidate] = []
    for i, network in enumerate(networks):
        pace.say(Stage.EXPORT, f"Exporting the {network.name} network to ONNX", i / len(networks))
        made.append(_fp32(network, spec, ingested, workspace))
    for candidate, network, recipe in _pairs(made, recipe_names(spec)):
        total = len(networks) * len(recipe_names(spec))
        pace.say(
            Stage.QUANTIZE, f"Quantizing the {network.name} network: {recipe}", (len(made) - len(networks)) / total
        )
        made.append(_int8(candidate, recipe, spec, ingested, workspace, pace.should_stop))
    return made


def calibration_tiles(ingested: Ingested) -> NDArray[np.uint8]:
    """Tiles of the training split, evenly over its classes: [up to 256, S, S, 3]."""
    tiles = ingested.train.tiles
    chosen = np.unique(np.linspace(0, len(tiles) - 1, min(len(tiles), MAX_CALIBRATION_TILES)).astype(int))
    return np.ascontiguousarray(tiles[chosen])


def _pairs(fp32: list[Candidate], recipes: tuple[str, ...]) -> Iterator[tuple[Candidate, Network, str]]:
    for candidate in list(fp32):
        for recipe in recipes:
            yield candidate, candidate.network, recipe


def _fp32(network: Network, spec: OptimizationSpec, ingested: Ingested, workspace: Workspace) -> Candidate:
    def make() -> Kept:
        exported = export(network.model, ingested.checkpoint.input, probe(ingested))
        failure = failed_gate(exported.model, ENGINE, probe(ingested), len(spec.labels))
        facts = {"exporter": exported.exporter, "parity": exported.parity, "failure": failure}
        return Kept(facts, {"model.onnx": exported.model})

    kept = workspace.once("export", _key(network, FP32, ingested), make)
    return _candidate(network, FP32, kept)


def _int8(
    fp32: Candidate,
    recipe: str,
    spec: OptimizationSpec,
    ingested: Ingested,
    workspace: Workspace,
    should_stop: Callable[[], bool],
) -> Candidate:
    def make() -> Kept:
        facts: dict[str, Any] = {"exporter": fp32.exporter, "parity": fp32.parity}
        try:
            model = quantize(fp32.model, RECIPES[recipe], calibration_tiles(ingested), should_stop=should_stop)
        except CannotQuantize as reason:
            return Kept({**facts, "failure": str(reason)}, {})
        facts["failure"] = failed_gate(model, ENGINE, probe(ingested), len(spec.labels))
        return Kept(facts, {"model.onnx": model})

    key = {**_key(fp32.network, recipe, ingested), "fp32": fp32.digest}
    return _candidate(fp32.network, recipe, workspace.once("quantize", key, make))


def _candidate(network: Network, recipe: str, kept: Kept) -> Candidate:
    facts = kept.facts
    model = kept.files.get("model.onnx", b"")
    return Candidate(network, recipe, ENGINE, model, facts["failure"], facts["exporter"], facts["parity"])


def _key(network: Network, recipe: str, ingested: Ingested) -> dict[str, Any]:
    return {**ingested.identity, "network": network.digest, "recipe": recipe}
