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
from gramserve.images.field import Field
from gramserve.runtime.aggregate import aggregate, probabilities
from gramserve.runtime.engines import Engine, first_installed, open_engine
from gramserve.runtime.golden import FILE as GOLDEN
from gramserve.runtime.golden import check_golden
from gramserve.runtime.preprocess import Place, tile_batches
from gramserve.runtime.readings import Readings
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

    def classify(self, fields: Iterable[Field | NDArray[np.uint8]], *, specimen_type: str = "") -> Classified:
        """The call of the slide whose images are `fields`: `read` and `call` in one. Raises what they raise."""
        readings = self.read(fields)
        return Classified(self.call(readings, specimen_type=specimen_type), readings.inference_s, len(readings))

    def read(
        self, fields: Iterable[Field | NDArray[np.uint8]], *, between: Callable[[], None] = lambda: None
    ) -> Readings:
        """What the engine says of the tiles of `fields`, taken one after the other: see `preprocess.tile_batches`.

        `between` is called between two batches of tiles: other work may be done there.
        Raises SlideFailed: IMAGE_TOO_SMALL, ENGINE_FAILED, OUT_OF_MEMORY, and whatever producing `fields` raises.
        """
        contract = self.contract
        logits: list[NDArray[np.float32]] = []
        places: list[Place] = []
        inference_s = 0.0
        for batch in tile_batches(fields, contract.preprocessing, self._batch_tiles):
            if places:
                between()
            start = self._clock()
            logits.append(self.engine.run(batch.tiles))
            inference_s += self._clock() - start
            places += batch.places
        together = np.concatenate(logits) if logits else np.empty((0, len(contract.labels)), np.float32)
        if not np.isfinite(together).all():
            raise SlideFailed(Reason.ENGINE_FAILED, "The model gave no finite numbers for this slide.", retryable=True)
        return Readings(together, tuple(places), inference_s)

    def call(self, readings: Readings, *, specimen_type: str = "") -> Call:
        """The call of a slide from all of its readings.

        `specimen_type` decides when a person must look, where the artifact has a threshold for it.
        """
        contract = self.contract
        tile_probabilities = probabilities(readings.logits, contract.calibration.temperature)
        rules = contract.aggregation.for_specimen(specimen_type)
        return aggregate(tile_probabilities, readings.places, contract.labels, rules)


class LoadedArtifact(Classifier):
    """A published version, ready to serve: `manifest` and `digest` (SHA-256 of its manifest.json) name it."""

    def __init__(
        self,
        manifest: ArtifactManifest,
        digest: str,
        engine: Engine,
        *,
        settings: EngineSettings | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__(manifest, engine, settings=settings, clock=clock)
        self.manifest = manifest
        self.digest = digest


def load_artifact(
    read: Callable[[str], bytes],
    manifest_bytes: bytes,
    expected_digest: str,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> LoadedArtifact:
    """Verifies and loads a version: digests, then the engine, then its golden vectors on this CPU, then a warm-up.

    The engine is the first of the manifest's `engine` and `alternatives` that is installed here. `read` gives a file of
    the version by name and raises NotFound where there is none. Raises ArtifactInvalid: ARTIFACT_CORRUPT,
    ARTIFACT_INCOMPLETE, ARTIFACT_GOLDEN_MISMATCH, MODEL_UNAVAILABLE; MemoryError. What `read` raises otherwise
    (Unavailable) passes through.
    """
    if manifest_digest(manifest_bytes) != expected_digest:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT,
            "manifest.json does not have the expected digest.",
            metadata={"file": "manifest.json"},
        )
    manifest = ArtifactManifest.from_json(manifest_bytes)
    model, golden = (_read_verified(read, manifest, name) for name in (MODEL, GOLDEN))
    settings = first_installed([manifest.engine, *manifest.alternatives])
    engine = open_engine(model, settings)
    edge, batch_tiles = manifest.preprocessing.input_px, settings.batch_tiles
    try:
        check_golden(engine, golden, labels=len(manifest.labels), input_px=edge, batch_tiles=batch_tiles)
        # First runs at the sizes that serve, a full batch and a rest, allocate and compile now and not under a slide.
        for count in (batch_tiles, 1):
            engine.run(np.zeros((count, edge, edge, 3), np.uint8))
    except SlideFailed:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT, "The model fails on its own golden tiles.", metadata={"file": MODEL}
        ) from None
    return LoadedArtifact(manifest, expected_digest, engine, settings=settings, clock=clock)


def _read_verified(read: Callable[[str], bytes], manifest: ArtifactManifest, name: str) -> bytes:
    """A file of the version whose size and SHA-256 are those in the manifest."""
    listed = manifest.files.get(name)
    if listed is None:
        raise ArtifactInvalid(Reason.ARTIFACT_INCOMPLETE, f"The manifest lists no {name}.", metadata={"file": name})
    try:
        data = read(name)
    except NotFound:
        raise ArtifactInvalid(Reason.ARTIFACT_INCOMPLETE, f"{name} is missing.", metadata={"file": name}) from None
    if len(data) != listed.bytes or hashlib.sha256(data).hexdigest() != listed.sha256:
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT, f"{name} is not the file that was published.", metadata={"file": name}
        )
    return data
