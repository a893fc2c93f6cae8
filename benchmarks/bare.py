"""The bare loop: the same bytes, decoder, engine and aggregation as a worker's child, and nothing else.

Run as `python -m benchmarks.bare FOLDER ...` with the versions to load, each with every engine that it names; reads one
JSON line per round from standard input and answers with one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gramserve.images.decode import use_one_thread
from gramserve.images.field import Field
from gramserve.images.limits import ImageLimits
from gramserve.runtime.artifact import Classifier
from gramserve.runtime.engines import installed_engines, open_engine
from gramserve.runtime.preprocess import read_field
from gramserve.store.manifest import ArtifactManifest

LIMITS = ImageLimits()


def load(folder: Path) -> dict[str, Classifier]:
    """The version in `folder` by the description of each installed engine that it names."""
    manifest = ArtifactManifest.from_json((folder / "manifest.json").read_bytes())
    model = (folder / "model.onnx").read_bytes()
    classifiers = {}
    for settings in (manifest.engine, *manifest.alternatives):
        if settings.name in installed_engines():
            engine = open_engine(model, settings)
            classifiers[engine.description] = Classifier(manifest, engine, settings=settings)
    return classifiers


def fields(slide: list[str], classifier: Classifier) -> Iterator[Field]:
    """The decoded fields of a slide, one after the other."""
    for path in slide:
        yield read_field(Path(path).read_bytes(), LIMITS, classifier.contract.preprocessing)


def serve(read: Callable[[list[str], Classifier], Iterable[Field | NDArray[np.uint8]]]) -> None:
    """Loads all versions, then runs the slides of each line with the version and the engine that it names.

    `read` gives the fields of a slide, which are paths.
    """
    use_one_thread()
    versions = {folder: load(Path(folder)) for folder in sys.argv[1:]}
    print("ready", flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        classifier, tiles, inference_s = versions[task["folder"]][task["engine"]], 0, 0.0
        started = time.perf_counter()
        for slide in task["slides"]:
            result = classifier.classify(read(slide, classifier))
            tiles, inference_s = tiles + result.tiles, inference_s + result.inference_s
        elapsed_s = time.perf_counter() - started
        print(json.dumps({"elapsed_s": elapsed_s, "tiles": tiles, "inference_s": inference_s}), flush=True)


if __name__ == "__main__":
    serve(fields)
