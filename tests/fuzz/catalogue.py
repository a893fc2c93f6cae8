"""All targets by name."""

from __future__ import annotations

from pathlib import Path

from tests.fuzz import pictures, services, tensors, texts
from tests.fuzz.target import Target

CORPUS = Path(__file__).parent / "corpus"
TARGETS: dict[str, Target] = {
    "images": pictures.IMAGES,
    "slides": pictures.SLIDES,
    "artifact_manifests": texts.ARTIFACTS,
    "slide_manifests": texts.MANIFESTS,
    "records": texts.STORED,
    "frames": texts.FRAMES,
    "labels": texts.YAMLS,
    "archives": texts.ZIPS,
    "tensors": tensors.TENSORS,
    "gateway": services.GATEWAY,
    "optimizer": services.OPTIMIZER,
    "worker": services.WORKER,
}
