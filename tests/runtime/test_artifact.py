"""Loading an artifact: nothing serves that was not verified on this CPU (I13)."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from gramserve.calls import Outcome
from gramserve.errors import ArtifactInvalid, NotFound, Reason, SlideFailed, Unavailable
from gramserve.runtime.artifact import Classifier, LoadedArtifact, load_artifact
from gramserve.runtime.engines import open_engine
from gramserve.runtime.golden import make_golden
from gramserve.store.manifest import ArtifactFile, ArtifactManifest, EngineSettings, manifest_digest
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from tests.artifacts import LABELS, coloured, publish_tiny, tiny_artifact, tiny_draft, tiny_model


def load(files: dict[str, bytes], manifest: ArtifactManifest) -> LoadedArtifact:
    data = manifest.to_json()
    return load_artifact(files.__getitem__, data, manifest_digest(data))


def relisted(files: dict[str, bytes], manifest: ArtifactManifest) -> ArtifactManifest:
    """The manifest with the digests that `files` have now."""
    listed = {name: ArtifactFile(sha256=manifest_digest(data), bytes=len(data)) for name, data in files.items()}
    return manifest.model_copy(update={"files": listed})


def refused(files: dict[str, bytes], manifest: ArtifactManifest) -> ArtifactInvalid:
    with pytest.raises(ArtifactInvalid) as failed:
        load(files, manifest)
    return failed.value


@pytest.mark.parametrize("label", LABELS)
def test_a_loaded_artifact_calls_slides(label):
    artifact = load(*tiny_artifact())
    classified = artifact.classify([coloured(label, 200, 130), coloured("BACKGROUND")])
    assert classified.tiles == classified.call.tile_count == 13
    assert [finding.label for finding in classified.call.findings] == [
        label for label in [label] if label != "BACKGROUND"
    ]
    assert classified.inference_s > 0


def test_evidence_points_into_the_image_that_shows_it():
    field = coloured("BACKGROUND", 256, 128)
    field[64:, 128:192] = coloured("GPR")
    classified = load(*tiny_artifact(min_tiles=1)).classify([coloured("BACKGROUND"), field])
    (finding,) = classified.call.findings
    (evidence,) = finding.evidence
    assert (evidence.image_index, evidence.x, evidence.y, evidence.width, evidence.height) == (1, 128, 64, 64, 64)


def test_inference_time_is_the_time_inside_the_engine():
    files, draft = tiny_draft(batch_tiles=4)
    ticks = iter(range(100))
    engine = open_engine(files["model.onnx"], draft.engine)
    classified = Classifier(draft, engine, clock=lambda: float(next(ticks))).classify([coloured("GNR", 192, 192)])
    assert classified.inference_s == 3.0  # nine tiles are three batches


async def test_a_published_version_is_loaded_by_its_digest(tmp_path):
    registry = Registry(open_store(str(tmp_path)))
    version, digest = await publish_tiny(registry)
    manifest, _ = await registry.manifest("gram", version)
    artifact = load_artifact(lambda name: registry.read_file_sync("gram", version, name), manifest.to_json(), digest)
    assert artifact.digest == digest
    assert artifact.manifest.version == version


def test_the_engine_that_was_measured_best_serves_where_it_is_installed():
    pytest.importorskip("openvino")
    artifact = load(*tiny_artifact(engine="openvino", alternatives=["onnxruntime"]))
    assert artifact.engine.description.startswith("openvino ")


def test_where_the_best_engine_is_not_installed_an_alternative_serves_with_the_same_golden_vectors(monkeypatch):
    pytest.importorskip("openvino")
    files, manifest = tiny_artifact(engine="openvino", alternatives=["onnxruntime"], tolerance=0.02)
    monkeypatch.setitem(sys.modules, "openvino", None)
    artifact = load(files, manifest)
    assert artifact.engine.description.startswith("onnxruntime ")
    assert artifact.classify([coloured("GPR", 200, 130)]).call.findings[0].label == "GPR"
    files["model.onnx"] = tiny_model(sharpness=60.1)
    assert refused(files, relisted(files, manifest)).reason is Reason.ARTIFACT_GOLDEN_MISMATCH


def test_an_artifact_whose_engines_are_all_missing_is_unavailable_and_not_corrupt(monkeypatch):
    files, manifest = tiny_artifact()
    monkeypatch.setitem(sys.modules, "openvino", None)
    lost = manifest.model_copy(update={"engine": EngineSettings(name="openvino")})
    assert refused(files, lost).reason is Reason.MODEL_UNAVAILABLE


def test_an_alternative_is_given_as_many_tiles_at_once_as_it_asks_for(monkeypatch):
    files, manifest = tiny_artifact(batch_tiles=4)
    other = EngineSettings(name="onnxruntime", batch_tiles=2)
    changed = {"engine": EngineSettings(name="abacus"), "alternatives": (other,)}
    artifact = load(files, manifest.model_copy(update=changed))
    given = []
    run = artifact.engine.run
    monkeypatch.setattr(artifact.engine, "run", lambda tiles: given.append(len(tiles)) or run(tiles))
    artifact.classify([coloured("GNR", 192, 64)])
    assert given == [2, 1]


def test_I13_a_manifest_with_another_digest_is_not_loaded():
    files, manifest = tiny_artifact()
    with pytest.raises(ArtifactInvalid) as failed:
        load_artifact(files.__getitem__, manifest.to_json(), "0" * 64)
    assert failed.value.reason is Reason.ARTIFACT_CORRUPT


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_I13_a_file_with_one_changed_byte_is_not_loaded(name):
    files, manifest = tiny_artifact()
    damaged = bytearray(files[name])
    damaged[len(damaged) // 2] ^= 1
    assert refused({**files, name: bytes(damaged)}, manifest).reason is Reason.ARTIFACT_CORRUPT
    assert refused({**files, name: files[name] + b"x"}, manifest).reason is Reason.ARTIFACT_CORRUPT


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz"])
def test_a_file_that_is_not_there_or_not_listed_makes_the_artifact_incomplete(name):
    files, manifest = tiny_artifact()

    def read(wanted: str) -> bytes:
        if wanted == name:
            raise NotFound(Reason.REFERENCE_NOT_FOUND, "gone")
        return files[wanted]

    data = manifest.to_json()
    with pytest.raises(ArtifactInvalid) as failed:
        load_artifact(read, data, manifest_digest(data))
    assert failed.value.reason is Reason.ARTIFACT_INCOMPLETE
    unlisted = manifest.model_copy(update={"files": {n: f for n, f in manifest.files.items() if n != name}})
    assert refused(files, unlisted).reason is Reason.ARTIFACT_INCOMPLETE


def test_a_store_that_is_away_does_not_condemn_the_artifact():
    _, manifest = tiny_artifact()

    def read(name: str) -> bytes:
        raise Unavailable(Reason.STORE_UNAVAILABLE, "away")

    data = manifest.to_json()
    with pytest.raises(Unavailable):
        load_artifact(read, data, manifest_digest(data))


def test_another_number_on_this_cpu_is_a_golden_mismatch():
    files, manifest = tiny_artifact()
    files["model.onnx"] = tiny_model(sharpness=60.01)
    failed = refused(files, relisted(files, manifest))
    assert failed.reason is Reason.ARTIFACT_GOLDEN_MISMATCH
    assert float(failed.metadata["difference"]) > float(failed.metadata["tolerance"])


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


TILES = np.zeros((2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    "golden",
    [
        b"",
        b"no archive",
        npz(tiles=TILES),
        npz(tiles=np.array([object()]), logits=np.zeros((1, 5)), tolerance=np.array(0.1)),
        npz(tiles=TILES[:0], logits=np.zeros((0, 5)), tolerance=np.array(0.1)),
        npz(tiles=TILES[:, :16], logits=np.zeros((2, 5)), tolerance=np.array(0.1)),
        npz(tiles=TILES, logits=np.zeros((2, 4)), tolerance=np.array(0.1)),
        npz(tiles=TILES, logits=np.full((2, 5), np.nan), tolerance=np.array(0.1)),
        npz(tiles=TILES.astype(float), logits=np.zeros((2, 5)), tolerance=np.array(0.1)),
    ],
    ids=["empty", "no-zip", "part", "pickle", "no-tiles", "size", "labels", "nan", "dtype"],
)
def test_golden_vectors_that_make_no_sense_are_corrupt(golden):
    files, manifest = tiny_artifact()
    files["golden.npz"] = golden
    assert refused(files, relisted(files, manifest)).reason is Reason.ARTIFACT_CORRUPT


def test_a_model_with_another_number_of_labels_is_corrupt():
    files, manifest = tiny_artifact()
    files["model.onnx"] = tiny_model(LABELS[:3])
    assert refused(files, relisted(files, manifest)).reason is Reason.ARTIFACT_CORRUPT


def test_a_model_that_cannot_run_its_golden_tiles_is_corrupt():
    files, manifest = tiny_artifact()
    files["model.onnx"] = tiny_model(input_px=16)
    assert refused(files, relisted(files, manifest)).reason is Reason.ARTIFACT_CORRUPT


def test_a_golden_file_is_the_same_for_the_same_tiles():
    engine = open_engine(tiny_model(), EngineSettings(name="onnxruntime"))
    assert make_golden(engine, TILES, tolerance=0.1, batch_tiles=1) == make_golden(
        engine, TILES, tolerance=0.1, batch_tiles=2
    )


class Broken:
    """An engine whose numbers are none."""

    description = "broken"

    def run(self, tiles: np.ndarray) -> np.ndarray:
        return np.full((len(tiles), len(LABELS)), np.nan, np.float32)


def test_numbers_that_are_none_fail_the_slide_instead_of_calling_it():
    _, draft = tiny_draft()
    with pytest.raises(SlideFailed) as failed:
        Classifier(draft, Broken()).classify([coloured("GNR")])
    assert failed.value.reason is Reason.ENGINE_FAILED


def test_a_slide_without_fields_is_unassessable():
    assert load(*tiny_artifact()).classify([]).call.outcome is Outcome.UNASSESSABLE
