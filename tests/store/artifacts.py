"""A small artifact to publish in tests."""

from __future__ import annotations

from datetime import UTC, datetime

from gramserve.store.manifest import (
    Aggregation,
    ArtifactDraft,
    Calibration,
    EngineSettings,
    Label,
    Preprocessing,
    Source,
)

FILES = {"model.onnx": b"weights", "golden.npz": b"numbers", "card.md": b"# A model\n"}


def draft() -> ArtifactDraft:
    return ArtifactDraft(
        created=datetime(2026, 11, 23, 12, tzinfo=UTC),
        source=Source(checkpoint_sha256="0" * 64, architecture="mobilenetv2_050", parameters=10, macs=20),
        labels=(
            Label(name="BACKGROUND", kind="background"),
            Label(name="GNR", kind="organism", gram="negative", morphology="bacilli"),
        ),
        preprocessing=Preprocessing(input_px=96, tiling="grid", tile_px=192, max_single_px=192, min_px=32),
        calibration=Calibration(temperature=1.5),
        aggregation=Aggregation(tile_probability=0.5, min_tiles=1, top_k=3, review_probability=0.8, max_evidence=4),
        engine=EngineSettings(name="onnxruntime", settings={"graph": "all"}),
        widths={"stem": 16},
    )
