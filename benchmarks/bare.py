"""The bare loop: the same bytes, decoder, engine and aggregation as a worker's child, and nothing else.

Run as `python -m benchmarks.bare`; reads one JSON line per round from standard input and answers with one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gramserve.images.decode import decode, use_one_thread
from gramserve.images.limits import ImageLimits
from gramserve.runtime.artifact import load_artifact

LIMITS = ImageLimits()


def fields(slide: list[Path]) -> Iterator[NDArray[np.uint8]]:
    """The decoded fields of a slide, one after the other."""
    for path in slide:
        yield decode(path.read_bytes(), LIMITS)


def main() -> None:
    """Load the artifact of the folder given first, then run the slides of each line."""
    folder, digest = Path(sys.argv[1]), sys.argv[2]
    use_one_thread()
    artifact = load_artifact(lambda name: (folder / name).read_bytes(), (folder / "manifest.json").read_bytes(), digest)
    print("ready", flush=True)
    for line in sys.stdin:
        slides = [[Path(path) for path in slide] for slide in json.loads(line)]
        started, tiles, inference_s = time.perf_counter(), 0, 0.0
        for slide in slides:
            result = artifact.classify(fields(slide))
            tiles, inference_s = tiles + result.tiles, inference_s + result.inference_s
        elapsed_s = time.perf_counter() - started
        print(json.dumps({"elapsed_s": elapsed_s, "tiles": tiles, "inference_s": inference_s}), flush=True)


if __name__ == "__main__":
    main()
