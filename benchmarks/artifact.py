"""The model that benchmarks serve: MobileNetV2 at 224 px, int8 per channel, with the weights it was born with.

Weights decide accuracy, not speed, so nothing is trained or downloaded.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from gramserve import samples
from gramserve.runtime.engines import open_engine
from gramserve.runtime.golden import make_golden
from gramserve.store.manifest import (
    Aggregation,
    ArtifactDraft,
    Calibration,
    EngineSettings,
    Label,
    Preprocessing,
    Source,
)
from gramserve.store.objects import open_store
from gramserve.store.registry import Registry
from optimizer_svc.architecture import build_model, default_input
from optimizer_svc.export import export
from optimizer_svc.quantization import RECIPES, quantize

ARCHITECTURE = "mobilenetv2_100"
RECIPE = "int8_channel_core"
TILE_PX = 224


def publish(store: Path) -> str:
    """Make the artifact, publish it as models/bench/versions/1 and return its digest."""
    torch.manual_seed(0)
    model = build_model(ARCHITECTURE, len(samples.LABELS), TILE_PX).eval()
    tiles = np.stack(
        [samples.Sample(label, i, TILE_PX, TILE_PX).render() for i in range(4) for label in samples.LABELS]
    )
    exported = export(model, default_input(ARCHITECTURE), tiles)
    int8 = quantize(exported.model, RECIPES[RECIPE], tiles, transformer=False)
    settings = EngineSettings(name="onnxruntime", threads=1, batch_tiles=4)
    golden = make_golden(open_engine(int8, settings), tiles[:4], tolerance=1e-3, batch_tiles=4)
    draft = ArtifactDraft(
        created=datetime.now(UTC),
        source=Source(
            checkpoint_sha256="0" * 64,
            architecture=ARCHITECTURE,
            parameters=sum(p.numel() for p in model.parameters()),
            macs=0,
        ),
        labels=tuple(Label.model_validate({"name": n, **samples.LABEL_ROLES[n]}) for n in samples.LABELS),
        preprocessing=Preprocessing(
            input_px=TILE_PX, tiling="grid", tile_px=TILE_PX, max_single_px=TILE_PX, min_px=TILE_PX
        ),
        calibration=Calibration(temperature=1.0),
        aggregation=Aggregation(tile_probability=0.5, min_tiles=2, top_k=3, review_probability=0.8, max_evidence=3),
        engine=settings,
    )

    async def write() -> str:
        registry = Registry(open_store(str(store)))
        version, digest = await registry.publish("bench", {"model.onnx": int8, "golden.npz": golden}, draft)
        await registry.promote("bench", version)
        return digest

    return asyncio.run(write())
