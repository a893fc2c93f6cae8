"""The manifest of an artifact: strict, frozen, read back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from gramserve.errors import ArtifactInvalid, Reason
from gramserve.store.manifest import (
    ArtifactFile,
    ArtifactManifest,
    Familiarity,
    Label,
    Look,
    QuantityBands,
    TileQuality,
    manifest_digest,
)
from tests.store.artifacts import draft


def manifest() -> ArtifactManifest:
    files = {"model.onnx": ArtifactFile(sha256="a" * 64, bytes=3)}
    facts = {name: getattr(draft(), name) for name in type(draft()).model_fields}
    return ArtifactManifest(**facts, model="m", version=1, files=files)


def test_a_manifest_is_read_back_as_it_was() -> None:
    data = manifest().to_json()
    assert ArtifactManifest.from_json(data) == manifest()
    assert ArtifactManifest.from_json(data).to_json() == data
    assert manifest_digest(data) == manifest_digest(manifest().to_json())
    assert json.loads(data)["labels"][1] == {
        "name": "GNR",
        "kind": "organism",
        "gram": "negative",
        "morphology": "bacilli",
        "arrangement": None,
    }


def test_a_manifest_from_before_there_was_a_second_engine_is_still_read() -> None:
    old = json.loads(manifest().to_json())
    del old["alternatives"], old["preprocessing"]["decode_reduction"]
    assert ArtifactManifest.from_json(json.dumps(old).encode()) == manifest()


def test_a_manifest_from_before_there_were_rules_for_slides_reads_as_all_tiles_fit() -> None:
    old = json.loads(manifest().to_json())
    before = ("tile_probability", "min_tiles", "top_k", "review_probability", "max_evidence", "review_by_specimen")
    old["aggregation"] = {name: old["aggregation"][name] for name in before}
    read = ArtifactManifest.from_json(json.dumps(old).encode())
    assert read == manifest()
    assert not read.aggregation.looks_at_tiles
    assert read.aggregation.min_assessed_tiles == 1


def test_rules_for_slides_are_read_back_as_they_were() -> None:
    unit = tuple(tuple(float(row == column) for column in range(5)) for row in range(5))
    rules = manifest().aggregation.model_copy(
        update={
            "quality": TileQuality(focus_exponent=2.0, min_focus=0.1, min_contrast=3.0, min_saturation=6.0),
            "familiarity": Familiarity(
                max_energy=-1.5, max_strange=0.2, look=Look(centre=(0.0,) * 5, whitening=unit, max_distance=4.0)
            ),
            "quantity": QuantityBands(few=0.05, moderate=0.25, many=0.75, min_tiles=4),
            "mixed_usual_in": ("sputum",),
        }
    )
    made = manifest().model_copy(update={"aggregation": rules})
    assert ArtifactManifest.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    ("where", "change"),
    [
        ("labels", {"labels": []}),
        ("manifest.json", {"labels": [{"name": "A", "kind": "organism"}] * 2}),
        ("labels.0.kind", {"labels": [{"name": "A", "kind": "animal"}]}),
        ("labels.0", {"labels": [{"name": "A", "kind": "background", "gram": "positive"}]}),
        ("format", {"format": "two"}),
        ("version", {"version": 0}),
        ("files.x.sha256", {"files": {"x": {"sha256": "A" * 64, "bytes": 1}}}),
        ("calibration.temperature", {"calibration": {"temperature": 0}}),
        ("engine.threads", {"engine": {"name": "onnxruntime", "threads": 0}}),
        ("alternatives.0.batch_tiles", {"alternatives": [{"name": "openvino", "batch_tiles": 0}]}),
        ("unheard_of", {"unheard_of": 1}),
        ("created", {"created": "2026-11-23T12:00:00"}),
    ],
)
def test_a_wrong_manifest_is_ARTIFACT_CORRUPT_and_the_field_is_named(where: str, change: dict[str, Any]) -> None:
    data = json.dumps({**json.loads(manifest().to_json()), **change}).encode()
    with pytest.raises(ArtifactInvalid) as caught:
        ArtifactManifest.from_json(data)
    assert caught.value.reason is Reason.ARTIFACT_CORRUPT
    assert caught.value.metadata["field"] == where


@pytest.mark.parametrize("data", [b"", b"null", b"{", b"\xff"])
def test_what_is_no_manifest_is_ARTIFACT_CORRUPT(data: bytes) -> None:
    with pytest.raises(ArtifactInvalid):
        ArtifactManifest.from_json(data)


def test_a_manifest_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Label(name="A", kind="organism").name = "B"


def test_a_manifest_of_another_release_is_not_called_corrupt() -> None:
    newer = json.loads(manifest().to_json()) | {"format": 2, "something": "new"}
    with pytest.raises(ArtifactInvalid, match="another release") as caught:
        ArtifactManifest.from_json(json.dumps(newer).encode())
    assert caught.value.reason is Reason.MODEL_UNAVAILABLE
