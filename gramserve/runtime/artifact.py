"""An artifact that was verified, loaded and warmed up, and that turns the fields of a slide into its call."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gramserve.calls import Call
from gramserve.errors import ArtifactInvalid, NotFound, Reason, SlideFailed
from gramserve.images.tiles import Box
from gramserve.runtime.aggregate import aggregate, probabilities
from gramserve.runtime.choose import Choice, EngineChooser
from gramserve.runtime.conditions import conditions_of
from gramserve.runtime.engines import Engine, first_installed
from gramserve.runtime.golden import FILE as GOLDEN
from gramserve.runtime.golden import check_golden, golden_tiles, run_in_batches
from gramserve.runtime.preprocess import Picture, Place, SlidePart, tile_batches
from gramserve.runtime.quality import measure_quality
from gramserve.runtime.readings import Readings
from gramserve.runtime.steps import Steps
from gramserve.runtime.tally import Tally, tally
from gramserve.store.manifest import ArtifactDraft, ArtifactManifest, EngineSettings, manifest_digest

MODEL = "model.onnx"


@dataclass(frozen=True, slots=True)
class Classified:
    """The call of a slide, the seconds spent inside the engine, and how many tiles it read."""

    call: Call
    inference_s: float
    tiles: int


class Classifier:
    """An engine with the contract it runs under; for one thread, since engines are not shared.

    `settings` are those that `engine` was opened with, where they are not the first choice of the contract. The
    optimizer measures candidates with this class before they have a digest; workers use `LoadedArtifact`.
    """

    def __init__(
        self,
        contract: ArtifactDraft,
        engine: Engine,
        *,
        settings: EngineSettings | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.contract = contract
        self.engine = engine
        self._batch_tiles = (settings or contract.engine).batch_tiles
        self._clock = clock

    def classify(
        self,
        fields: Iterable[Picture | NDArray[np.uint8]],
        *,
        specimen_type: str = "",
        between: Callable[[], None] = lambda: None,
    ) -> Classified:
        """The call of the slide whose images are `fields`: `read` and `call` in one. Raises what they raise."""
        readings = self.read(fields, between=between)
        return Classified(self.call(readings, specimen_type=specimen_type), readings.inference_s, len(readings))

    def read(
        self,
        fields: Iterable[Picture | NDArray[np.uint8]],
        *,
        between: Callable[[], None] = lambda: None,
        part: SlidePart | None = None,
    ) -> Readings:
        """What the engine says of the tiles of `fields`, taken one after the other: see `preprocess.tile_batches`.

        `part`: of a whole slide only this. `between` is called before each batch of tiles: other work may be done
        there.
        Raises SlideFailed: IMAGE_TOO_SMALL, ENGINE_FAILED, OUT_OF_MEMORY, and whatever producing `fields` raises.
        """
        contract = self.contract
        logits: list[NDArray[np.float32]] = []
        places: list[Place] = []
        quality: list[NDArray[np.float32]] = []
        inference_s = 0.0
        for batch in tile_batches(fields, contract.preprocessing, self._batch_tiles, part=part):
            between()
            start = self._clock()
            logits.append(self.engine.run(batch.tiles))
            inference_s += self._clock() - start
            places += batch.places
            if contract.aggregation.looks_at_tiles:
                quality.append(measure_quality(batch.tiles))
        together = np.concatenate(logits) if logits else np.empty((0, len(contract.labels)), np.float32)
        if not np.isfinite(together).all():
            raise SlideFailed(Reason.ENGINE_FAILED, "The model gave no finite numbers for this slide.", retryable=True)
        return Readings(together, tuple(places), inference_s, np.concatenate(quality) if quality else None)

    def read_tiles(self, tiles: NDArray[np.uint8]) -> Readings:
        """What the engine says of tiles that are model input already: uint8 RGB [N, S, S, 3], N at least 1.

        The place of a tile is all of image n, as if each were a field of its own. Raises SlideFailed: ENGINE_FAILED,
        OUT_OF_MEMORY.
        """
        start = self._clock()
        logits = run_in_batches(self.engine, tiles, self._batch_tiles)
        inference_s = self._clock() - start
        if not np.isfinite(logits).all():
            raise SlideFailed(Reason.ENGINE_FAILED, "The model gave no finite numbers for these tiles.", retryable=True)
        whole = Box(0, 0, tiles.shape[2], tiles.shape[1])
        return Readings(logits, tuple(Place(index, whole) for index in range(len(tiles))), inference_s)

    def call(self, readings: Readings, *, specimen_type: str = "") -> Call:
        """The call of a slide from all of its readings: `judge` without the count of tiles."""
        return self.judge(readings, specimen_type=specimen_type)[0]

    def judge(self, readings: Readings, *, specimen_type: str = "") -> tuple[Call, Tally]:
        """The call of a slide from all of its readings, and what was said of its tiles that are fit to read.

        `specimen_type` decides when a person must look, where the artifact has a threshold for it.
        """
        contract = self.contract
        tile_probabilities = probabilities(readings.logits, contract.calibration.temperature)
        rules = contract.aggregation.for_specimen(specimen_type)
        conditions = conditions_of(readings, contract.preprocessing, rules)
        call = aggregate(tile_probabilities, readings.places, contract.labels, rules, conditions)
        return call, tally(tile_probabilities[conditions.assessed], contract.labels)


class LoadedArtifact(Classifier):
    """A published version, ready to serve: `manifest` and `digest` (SHA-256 of its manifest.json) name it.

    `choice` says how its engine was chosen.
    """

    def __init__(
        self,
        manifest: ArtifactManifest,
        digest: str,
        engine: Engine,
        *,
        settings: EngineSettings | None = None,
        choice: Choice | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(manifest, engine, settings=settings, clock=clock)
        self.choice = choice
        self.manifest = manifest
        self.digest = digest


def load_artifact(
    read: Callable[[str], bytes],
    manifest_bytes: bytes,
    expected_digest: str,
    *,
    chooser: EngineChooser | None = None,
    clock: Callable[[], float] = time.perf_counter,
    steps: Steps | None = None,
) -> LoadedArtifact:
    """Verifies and loads a version: digests, then the engine, then its golden vectors on this CPU, then a warm-up.

    `chooser` takes one of the manifest's `engine` and `alternatives`; without it, the first that is installed here
    serves. `read` gives a file of the version by name and raises NotFound where there is none. `steps` gets the seconds
    of fetch, verify, engine and golden.
    Raises ArtifactInvalid: ARTIFACT_CORRUPT, ARTIFACT_INCOMPLETE, ARTIFACT_GOLDEN_MISMATCH, MODEL_UNAVAILABLE;
    MemoryError. What `read` raises otherwise (Unavailable) passes through.
    """
    steps = steps or Steps(clock)
    if manifest_digest(manifest_bytes) != expected_digest:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT,
            "manifest.json does not have the expected digest.",
            metadata={"file": "manifest.json"},
        )
    manifest = ArtifactManifest.from_json(manifest_bytes)
    model, golden = (_read_verified(read, manifest, name, steps) for name in (MODEL, GOLDEN))
    edge, choices = manifest.preprocessing.input_px, [manifest.engine, *manifest.alternatives]

    def check(engine: Engine, settings: EngineSettings) -> NDArray[np.uint8]:
        batch_tiles = settings.batch_tiles
        with steps.step("golden"):
            check_golden(engine, golden, labels=len(manifest.labels), input_px=edge, batch_tiles=batch_tiles)
            # First runs at the sizes that serve, a full batch and a rest, allocate and compile now, not under a slide.
            for count in (batch_tiles, 1):
                engine.run(np.zeros((count, edge, edge, 3), np.uint8))
            return golden_tiles(golden)

    try:
        if chooser is None:
            chooser, choices = EngineChooser(), [first_installed(choices)]
        with steps.step("engine"):
            chosen = chooser.choose(expected_digest, model, choices, check)
    except SlideFailed:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT, "The model fails on its own golden tiles.", metadata={"file": MODEL}
        ) from None
    return LoadedArtifact(
        manifest, expected_digest, chosen.engine, settings=chosen.settings, choice=chosen, clock=clock
    )


def _read_verified(read: Callable[[str], bytes], manifest: ArtifactManifest, name: str, steps: Steps) -> bytes:
    """A file of the version whose size and SHA-256 are those in the manifest."""
    listed = manifest.files.get(name)
    if listed is None:
        raise ArtifactInvalid(Reason.ARTIFACT_INCOMPLETE, f"The manifest lists no {name}.", metadata={"file": name})
    try:
        with steps.step("fetch"):
            data = read(name)
    except NotFound:
        raise ArtifactInvalid(Reason.ARTIFACT_INCOMPLETE, f"{name} is missing.", metadata={"file": name}) from None
    with steps.step("verify"):
        same = len(data) == listed.bytes and hashlib.sha256(data).hexdigest() == listed.sha256
    if not same:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT, f"{name} is not the file that was published.", metadata={"file": name}
        )
    return data
