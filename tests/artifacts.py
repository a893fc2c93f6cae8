"""Tiny artifacts that call slides by colour: real ONNX models whose answer a test can foresee."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from gramserve.runtime.engines import open_engine
from gramserve.runtime.golden import make_golden
from gramserve.samples import LABEL_ROLES, LABELS
from gramserve.store.manifest import (
    Aggregation,
    ArtifactDraft,
    ArtifactFile,
    ArtifactManifest,
    Calibration,
    EngineSettings,
    Label,
    Preprocessing,
    Source,
)
from gramserve.store.registry import Registry

# The colour that each label answers to.
COLOURS = {
    "BACKGROUND": (225, 225, 225),
    "GNR": (230, 90, 130),
    "GPC_CLUSTERS": (110, 40, 150),
    "GPC_PAIRS_CHAINS": (40, 60, 190),
    "GPR": (20, 15, 60),
}


def coloured(label: str, width: int = 64, height: int = 64) -> NDArray[np.uint8]:
    """A field of one colour, uint8 RGB [height, width, 3], that a tiny artifact calls `label` with certainty."""
    return np.full((height, width, 3), COLOURS[label], np.uint8)


def coloured_file(label: str, width: int = 64, height: int = 64, extension: str = "png") -> bytes:
    """`coloured` as the bytes of a png, jpg or tif."""
    done, data = cv2.imencode(f".{extension}", np.ascontiguousarray(coloured(label, width, height)[:, :, ::-1]))
    assert done
    return data.tobytes()


def tiny_model(labels: Sequence[str] = LABELS, input_px: int = 32, sharpness: float = 60.0) -> bytes:
    """An ONNX model [N, S, S, 3] -> [N, C]: 1x1 convolution, global mean, and the label whose colour is nearest."""
    colours = np.array([COLOURS[label] for label in labels], np.float32) / 255
    weights = {
        "scale": np.array(1 / 255, np.float32),
        "kernel": np.eye(3, dtype=np.float32)[:, :, None, None],
        "nearest": (2 * sharpness * colours).astype(np.float32),
        "offset": (-sharpness * (colours**2).sum(axis=1)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["tiles"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["float", "scale"], ["unit"]),
        helper.make_node("Transpose", ["unit"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "kernel"], ["features"]),
        helper.make_node("GlobalAveragePool", ["features"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["colour"]),
        helper.make_node("Gemm", ["colour", "nearest", "offset"], ["logits"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("tiles", TensorProto.UINT8, ["N", input_px, input_px, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(labels)])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def tiny_draft(
    labels: Sequence[str] = LABELS,
    input_px: int = 32,
    tiling: str = "grid",
    *,
    tile_px: int = 64,
    max_single_px: int = 64,
    min_px: int = 16,
    batch_tiles: int = 4,
    min_tiles: int = 1,
    sharpness: float = 60.0,
    engine: str = "onnxruntime",
    alternatives: Sequence[str] = (),
    tolerance: float = 1e-3,
    review_by_specimen: dict[str, float] | None = None,
    decode_reduction: int = 1,
    evaluation: dict[str, Any] | None = None,
) -> tuple[dict[str, bytes], ArtifactDraft]:
    """The files of a tiny artifact and its draft, ready for `Registry.publish`."""
    model = tiny_model(labels, input_px, sharpness)
    settings, *others = (
        EngineSettings(name=name, threads=1, batch_tiles=batch_tiles) for name in (engine, *alternatives)
    )
    tiles = np.stack([coloured(label, input_px, input_px) for label in labels])
    golden = make_golden(open_engine(model, settings), tiles, tolerance=tolerance, batch_tiles=batch_tiles)
    draft = ArtifactDraft(
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        source=Source(checkpoint_sha256="0" * 64, architecture="nearest_colour", parameters=29, macs=9 * input_px**2),
        labels=tuple(Label(name=label, **LABEL_ROLES[label]) for label in labels),
        preprocessing=Preprocessing(
            input_px=input_px,
            tiling=tiling,
            tile_px=tile_px,
            max_single_px=max_single_px,
            min_px=min_px,
            decode_reduction=decode_reduction,
        ),
        calibration=Calibration(temperature=1.0),
        aggregation=Aggregation(
            tile_probability=0.6,
            min_tiles=min_tiles,
            top_k=3,
            review_probability=0.8,
            max_evidence=3,
            review_by_specimen=review_by_specimen or {},
        ),
        engine=settings,
        alternatives=tuple(others),
        evaluation=evaluation or {},
    )
    return {"model.onnx": model, "golden.npz": golden}, draft


def tiny_artifact(
    labels: Sequence[str] = LABELS, input_px: int = 32, tiling: str = "grid", **options: float
) -> tuple[dict[str, bytes], ArtifactManifest]:
    """The files of a tiny artifact and the manifest they would be published with, as version 1 of models/gram."""
    files, draft = tiny_draft(labels, input_px, tiling, **options)
    listed = {name: ArtifactFile(sha256=hashlib.sha256(b).hexdigest(), bytes=len(b)) for name, b in files.items()}
    return files, ArtifactManifest(**dict(draft), model="gram", version=1, files=listed)


async def publish_tiny(
    registry: Registry, model: str = "gram", *, promote: bool = True, **options: float
) -> tuple[int, str]:
    """Publishes a tiny artifact as the next version of `model`, as production unless told not to: (version, digest)."""
    files, draft = tiny_draft(**options)
    version, digest = await registry.publish(model, files, draft)
    if promote:
        await registry.promote(model, version)
    return version, digest
