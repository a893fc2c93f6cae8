"""A 3-megapixel JPEG field from its bytes to its call on one core, beside the path that one would write first.

The naive path decodes everything with Pillow, cuts with numpy, resizes with Pillow and runs the network in fp32 with
onnxruntime, tile by tile. gramserve's is what a child of the worker runs. Both are timed in turns.
"""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from benchmarks.artifact import CAMERA, CAMERA_PX, TILE_PX, Published
from benchmarks.core import bound_task, in_turns, median_ratio, run_on_one_core
from benchmarks.report import spread
from gramserve import samples
from gramserve.images.decode import use_one_thread
from gramserve.images.limits import ImageLimits
from gramserve.images.tiles import Box, tile_boxes
from gramserve.runtime.artifact import Classifier
from gramserve.runtime.engines import INPUT, OUTPUT, installed_engines, open_engine
from gramserve.runtime.preprocess import read_field
from gramserve.store.manifest import ArtifactManifest, Preprocessing

WIDTH, HEIGHT = 2048, 1536
LIMITS = ImageLimits()
NAIVE = "naive"


def measure(published: Published, seconds: float) -> dict[str, Any]:
    """By case (the field as one tile, as a grid): ms of each path, and how many times as fast gramserve is."""
    folder = published.folders[CAMERA]
    return run_on_one_core("benchmarks.field", {"folder": str(folder), "fp32": str(published.fp32), "seconds": seconds})


def field() -> bytes:
    """A JPEG file of WIDTH x HEIGHT pixels."""
    return samples.encode(samples.Sample(samples.LABELS[-1], 7, WIDTH, HEIGHT).render(), "jpg")


def cases(contract: Preprocessing) -> dict[str, Preprocessing]:
    """The contracts under which the field is read."""
    single = contract.model_copy(update={"tiling": "single", "decode_reduction": 8})
    return {"one tile": single, f"grid of {CAMERA_PX} px": contract}


def naive(session: ort.InferenceSession, data: bytes, boxes: list[Box]) -> NDArray[np.float32]:
    """Probabilities [N, C] of the tiles."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    rows = []
    for box in boxes:
        cut = Image.fromarray(pixels[box.y : box.y + box.height, box.x : box.x + box.width])
        tile = np.asarray(cut.resize((TILE_PX, TILE_PX), Image.Resampling.BILINEAR))
        (logits,) = session.run([OUTPUT], {INPUT: tile[None]})
        exponents = np.exp(logits[0] - logits[0].max())
        rows.append(exponents / exponents.sum())
    return np.stack(rows)


def naive_path(fp32: Path, data: bytes, contract: Preprocessing) -> Callable[[], object]:
    """The path that one would write first."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(fp32), options, providers=["CPUExecutionProvider"])
    boxes = list(tile_boxes(WIDTH, HEIGHT, contract))
    return lambda: naive(session, data, boxes).mean(axis=0)


def own_paths(folder: Path, data: bytes, contract: Preprocessing) -> dict[str, Callable[[], object]]:
    """The path of a worker's child, with each engine that the artifact names and that is installed."""
    manifest = ArtifactManifest.from_json((folder / "manifest.json").read_bytes())
    manifest = manifest.model_copy(update={"preprocessing": contract})
    paths: dict[str, Callable[[], object]] = {}
    for settings in (manifest.engine, *manifest.alternatives):
        if settings.name in installed_engines():
            engine = open_engine((folder / "model.onnx").read_bytes(), settings)
            classifier = Classifier(manifest, engine, settings=settings)
            paths[settings.name] = lambda one=classifier: one.classify([read_field(data, LIMITS, contract)])  # type: ignore[misc]
    return paths


def compare(folder: Path, fp32: Path, seconds: float) -> dict[str, Any]:
    """See `measure`."""
    use_one_thread()
    data = field()
    manifest = ArtifactManifest.from_json((folder / "manifest.json").read_bytes())
    figures: dict[str, Any] = {"width": WIDTH, "height": HEIGHT, "bytes": len(data), "cases": {}}
    for name, contract in cases(manifest.preprocessing).items():
        own = own_paths(folder, data, contract)
        taken = in_turns({NAIVE: naive_path(fp32, data, contract), **own}, seconds)
        figures["cases"][name] = {
            "tiles": len(tile_boxes(WIDTH, HEIGHT, contract)),
            "ms": {path: spread(times) for path, times in taken.items()},
            "decode_ms": statistics.median(in_turns({"d": lambda c=contract: read_field(data, LIMITS, c)}, 0)["d"]),  # type: ignore[misc]
            "over_naive": {path: median_ratio(taken[NAIVE], taken[path]) for path in own},
        }
    return figures


if __name__ == "__main__":
    task = bound_task()
    print(json.dumps(compare(Path(task["folder"]), Path(task["fp32"]), task["seconds"])))
