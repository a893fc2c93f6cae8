"""What one core can do at best, and how near decoding and inference come to it.

The int8 peak is the best that onnxruntime's matrix product (MatMulInteger, VNNI where the CPU has it) reaches over a
few sizes; the bandwidth is that of a copy by numpy that fits no cache; the decoder's is that of OpenCV alone, which
calls libjpeg-turbo.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from benchmarks.artifact import TILE_PX, TILES, Published
from benchmarks.core import bound_task, in_turns, run_on_one_core
from benchmarks.report import spread
from gramserve.images.decode import use_one_thread
from gramserve.images.limits import ImageLimits
from gramserve.runtime.engines import installed_engines, open_engine
from gramserve.runtime.preprocess import read_field
from gramserve.store.manifest import ArtifactManifest

SIZES = ((384, 384, 384), (1024, 1024, 1024), (2048, 512, 512))
COPY_BYTES = 256 * 2**20
LIMITS = ImageLimits()
_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def measure(published: Published, fields: Mapping[str, tuple[str, Path]], seconds: float) -> dict[str, Any]:
    """Figures of one core; `fields` gives by name the model and the JPEG file that are decoded under its contract."""
    task = {
        "folder": str(published.folders[TILES]),
        "fields": {name: (str(published.folders[model]), str(path)) for name, (model, path) in fields.items()},
        "seconds": seconds,
    }
    return run_on_one_core("benchmarks.limits", task)


def product(rows: int, inner: int, columns: int) -> Callable[[], object]:
    """One product of uint8 [rows, inner] and int8 [inner, columns] in onnxruntime, one thread."""
    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.integers(-127, 128, (inner, columns), np.int8), "b")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["y"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.UINT8, [rows, inner])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, columns])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    given = {"a": rng.integers(0, 256, (rows, inner), np.uint8)}
    return lambda: session.run(None, given)


def int8_peak(seconds: float) -> dict[str, float]:
    """Billions of int8 operations a second (a multiplication and an addition are two) by size of the product."""
    ways = {"x".join(map(str, size)): product(*size) for size in SIZES}
    taken = in_turns(ways, seconds)
    return {
        name: 2 * np.prod(size, dtype=np.int64) / (min(taken[name]) * 1e6)
        for name, size in zip(ways, SIZES, strict=True)
    }


def copy_bandwidth(seconds: float) -> float:
    """Billions of bytes read and written a second by a copy."""
    source, target = np.ones(COPY_BYTES, np.uint8), np.empty(COPY_BYTES, np.uint8)
    taken = in_turns({"copy": lambda: np.copyto(target, source)}, seconds)["copy"]
    return 2 * COPY_BYTES / (min(taken) * 1e6)


def activation_bytes(model: Path) -> int:
    """Bytes of all layers' outputs for one tile, each once at 8 bits: what the network moves beside its weights."""
    proto = onnx.load(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(proto)
    layers = {name for node in proto.graph.node if node.op_type in {"Conv", "Gemm", "MatMul"} for name in node.output}
    total = 0
    for value in inferred.graph.value_info:
        if value.name in layers:
            total += int(np.prod([max(d.dim_value, 1) for d in value.type.tensor_type.shape.dim]))
    return total


def inference(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Milliseconds per tile of each installed engine that the artifact names, at its number of tiles at once."""
    manifest = ArtifactManifest.from_json((folder / "manifest.json").read_bytes())
    ways: dict[str, Callable[[], object]] = {}
    count = {}
    for settings in (manifest.engine, *manifest.alternatives):
        if settings.name in installed_engines():
            engine = open_engine((folder / "model.onnx").read_bytes(), settings)
            tiles = np.random.default_rng(0).integers(0, 256, (settings.batch_tiles, TILE_PX, TILE_PX, 3), np.uint8)
            ways[settings.name] = lambda engine=engine, tiles=tiles: engine.run(tiles)  # type: ignore[misc]
            count[settings.name] = settings.batch_tiles
    taken = in_turns(ways, seconds)
    return {name: spread([time / count[name] for time in times]) for name, times in taken.items()}


def decoding(fields: Mapping[str, tuple[Path, Path]], seconds: float) -> dict[str, dict[str, float]]:
    """By name: pixels, bytes, the reduction, ms of OpenCV alone at it and of gramserve, which checks the file first."""
    figures = {}
    for name, (folder, path) in fields.items():
        contract = ArtifactManifest.from_json((folder / "manifest.json").read_bytes()).preprocessing
        data = path.read_bytes()
        encoded = np.frombuffer(data, np.uint8)
        field = read_field(data, LIMITS, contract)
        flag = _FLAGS[field.reduction]
        ways = {
            "opencv": lambda encoded=encoded, flag=flag: cv2.imdecode(encoded, flag),
            "gramserve": lambda data=data, contract=contract: read_field(data, LIMITS, contract),
        }
        taken = in_turns(ways, seconds)
        figures[name] = {
            "megapixels": field.width * field.height / 1e6,
            "bytes": len(data),
            "reduction": field.reduction,
            "opencv_ms": float(np.median(taken["opencv"])),
            "gramserve_ms": float(np.median(taken["gramserve"])),
        }
    return figures


def compare(folder: Path, fields: Mapping[str, tuple[Path, Path]], seconds: float) -> dict[str, Any]:
    """See `measure`."""
    use_one_thread()
    manifest = ArtifactManifest.from_json((folder / "manifest.json").read_bytes())
    peaks, bandwidth = int8_peak(seconds), copy_bandwidth(seconds)
    peak, engines = max(peaks.values()), inference(folder, seconds)
    operations = 2 * manifest.source.macs
    moved = activation_bytes(folder / "model.onnx")
    return {
        "int8_gops": {"peak": peak, **peaks},
        "copy_gb_per_s": bandwidth,
        "network": {"operations": operations, "activation_bytes": moved, "weight_bytes": manifest.source.parameters},
        "inference_ms_per_tile": engines,
        "int8_limit_ms_per_tile": operations / (peak * 1e6),
        "bandwidth_limit_ms_per_tile": 2 * moved / (bandwidth * 1e6),
        "share_of_int8_peak": {name: operations / (times["median"] * peak * 1e6) for name, times in engines.items()},
        "decoding": decoding(fields, seconds),
    }


if __name__ == "__main__":
    task = bound_task()
    paths = {name: (Path(folder), Path(path)) for name, (folder, path) in task["fields"].items()}
    print(json.dumps(compare(Path(task["folder"]), paths, task["seconds"])))
