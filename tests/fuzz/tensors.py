"""Inference requests as a child takes them: bytes, tensors, a real model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import numpy as np

from gramserve.errors import GramserveError
from gramserve.images.decode import use_one_thread
from gramserve.images.limits import ImageLimits
from gramserve.oip.open_inference_pb2 import ModelInferRequest
from gramserve.runtime.artifact import load_artifact
from gramserve.store.manifest import manifest_digest
from inference_svc.infer import infer
from inference_svc.protocol import Infer
from tests.artifacts import coloured_file, tiny_artifact
from tests.fuzz.dice import Dice, grow
from tests.fuzz.target import Run, Target
from tests.inference.oip import image_request, tile_request

PX = 8
WORDS = (
    *("tiles", "images", "UINT8", "FP32", "BYTES", "INT32", "gram", "gram.images"),
    *("logits", "probabilities", "places"),
)


@contextmanager
def inferring() -> Iterator[Run]:
    """First byte 0: the request as it is; otherwise one that is grown."""
    use_one_thread()
    files, manifest = tiny_artifact(input_px=PX)
    data = manifest.to_json()
    artifact = load_artifact(files.__getitem__, data, manifest_digest(data))
    limits = ImageLimits(max_bytes=1 << 20, max_pixels=1_000_000, min_px=8)

    def run(data: bytes) -> None:
        blob = data[1:]
        if data[:1] != b"\0":
            request = ModelInferRequest()
            grow(request, Dice(blob), WORDS)
            blob = request.SerializeToString()
        work = Infer(1, "models/gram/versions/1", artifact.digest, None, blob)
        with suppress(GramserveError):
            infer(work, artifact, limits, clock=time.monotonic)

    yield run


def _requests() -> list[bytes]:
    tiles = np.zeros((2, PX, PX, 3), np.uint8)
    found = [tile_request(tiles), tile_request(tiles.astype(np.float32)), image_request([coloured_file("GNR", 16, 16)])]
    return [b"\0" + one.SerializeToString() for one in found] + [b"\1" + bytes(range(1, 200))]


TENSORS = Target(inferring, _requests, 16_384)
