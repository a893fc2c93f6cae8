"""The model that benchmarks serve: MobileNetV2 at 224 px, int8 per channel, with the weights it was born with.

Weights decide accuracy, not speed, so nothing is trained or downloaded.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from gramserve import samples
from gramserve.runtime.engines import installed_engines, open_engine
from gramserve.runtime.golden import make_golden, run_in_batches
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
from optimizer_svc.macs import macs
from optimizer_svc.quantization import RECIPES, quantize

ARCHITECTURE = "mobilenetv2_100"
RECIPE = "int8_channel_core"
TILE_PX = 224
CAMERA_PX = 500
"""Edge of the tiles of a camera's field, in pixels of the field; they are shrunk to the model's input."""

TILES = "bench"
"""The model whose fields are cut into tiles of TILE_PX pixels, which go to the network as they are."""
CAMERA = "bench-camera"
"""The same network, whose fields are cut into tiles of CAMERA_PX pixels or are one tile of that size."""

_CONTRACTS = {
    TILES: Preprocessing(input_px=TILE_PX, tiling="grid", tile_px=TILE_PX, max_single_px=TILE_PX, min_px=TILE_PX),
    CAMERA: Preprocessing(
        input_px=TILE_PX, tiling="grid", tile_px=CAMERA_PX, max_single_px=CAMERA_PX, min_px=TILE_PX, decode_reduction=2
    ),
}


@dataclass(frozen=True, slots=True)
class Published:
    """What was published: digests by model, the folder of each version, and the network in fp32, never served."""

    digests: dict[str, str]
    folders: dict[str, Path]
    fp32: Path


def publish(store: Path) -> Published:
    """Makes the network and publishes it under both contracts as version 1, promoted; the fp32 file lies beside."""
    torch.manual_seed(0)
    model = build_model(ARCHITECTURE, len(samples.LABELS), TILE_PX).eval()
    tiles = np.stack(
        [samples.Sample(label, i, TILE_PX, TILE_PX).render() for i in range(4) for label in samples.LABELS]
    )
    exported = export(model, default_input(ARCHITECTURE), tiles)
    int8 = quantize(exported.model, RECIPES[RECIPE], tiles, transformer=False)
    names = sorted(installed_engines(), key=lambda name: name != "onnxruntime")
    choices = tuple(EngineSettings(name=name, threads=1, batch_tiles=4) for name in names)
    drafts = {
        name: ArtifactDraft(
            created=datetime.now(UTC),
            source=Source(
                checkpoint_sha256="0" * 64,
                architecture=ARCHITECTURE,
                parameters=sum(p.numel() for p in model.parameters()),
                macs=macs(model, TILE_PX),
            ),
            labels=tuple(Label.model_validate({"name": n, **samples.LABEL_ROLES[n]}) for n in samples.LABELS),
            preprocessing=contract,
            calibration=Calibration(temperature=1.0),
            aggregation=Aggregation(tile_probability=0.5, min_tiles=2, top_k=3, review_probability=0.8, max_evidence=3),
            engine=choices[0],
            alternatives=choices[1:],
        )
        for name, contract in _CONTRACTS.items()
    }
    files = {"model.onnx": int8, "golden.npz": _golden(int8, choices, tiles[:4])}
    store.mkdir(parents=True, exist_ok=True)
    fp32 = store.parent / "fp32.onnx"
    fp32.write_bytes(exported.model)

    async def write() -> dict[str, str]:
        registry = Registry(open_store(str(store)))
        digests = {}
        for name, draft in drafts.items():
            version, digests[name] = await registry.publish(name, files, draft)
            await registry.promote(name, version)
        return digests

    folders = {name: store / "models" / name / "versions/1" for name in drafts}
    return Published(asyncio.run(write()), folders, fp32)


def _golden(model: bytes, choices: tuple[EngineSettings, ...], tiles: np.ndarray) -> bytes:
    """Golden vectors of the first engine that hold on all: without training, rounding weighs as much as the picture."""
    engines = [open_engine(model, settings) for settings in choices]
    logits = [run_in_batches(engine, tiles, choices[0].batch_tiles) for engine in engines]
    apart = max(float(np.abs(logits[0] - other).max()) for other in logits)
    return make_golden(engines[0], tiles, tolerance=max(2 * apart, 1e-3), batch_tiles=choices[0].batch_tiles)
