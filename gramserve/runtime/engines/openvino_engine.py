"""OpenVINO on the CPU."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gramserve.runtime.engines.engine import INPUT, OUTPUT, engine_failed, out_of_memory
from gramserve.runtime.telemetry import keep_telemetry_out
from gramserve.store.manifest import EngineSettings

# One thread that the system may move, because every core has a process of its own. Numbers are what the model says:
# no bf16 and no rounding of activations that the model does not ask for. Nothing is cached on disk.
_PROPERTIES: Final = {
    "NUM_STREAMS": "1",
    "PERFORMANCE_HINT": "LATENCY",
    "ENABLE_CPU_PINNING": "NO",
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
# What a manifest may change; anything else could write to the disk or take more cores.
_FROM_MANIFEST: Final = frozenset({"INFERENCE_PRECISION_HINT"})

_OUT_OF_MEMORY: Final = ("bad_alloc", "bad alloc", "can't alloc")


class OpenVinoEngine:
    """The model compiled for `batch_tiles` tiles at once and, once it is needed, for one: rests go tile by tile.

    Fixed sizes are 15 to 30 % faster than one model of any size, because their kernels are chosen for them, and give
    every tile the very same numbers.
    """

    def __init__(self, model: bytes, settings: EngineSettings) -> None:
        unknown = set(settings.settings) - _FROM_MANIFEST
        if unknown:
            raise ValueError(f"settings that are not offered: {sorted(unknown)}")
        keep_telemetry_out()
        openvino = importlib.import_module("openvino")
        properties = {**_PROPERTIES, "INFERENCE_NUM_THREADS": str(settings.threads), **settings.settings}
        self._compile = partial(_Compiled, openvino.Core(), model, properties)
        try:
            self._batch = self._compile(settings.batch_tiles)
        except RuntimeError as error:
            if ran_out_of_memory(error):
                raise MemoryError from None
            raise
        self._single = self._batch if settings.batch_tiles == 1 else None
        version = openvino.__version__.partition("-")[0]
        extra = "".join(f" {key}={value}" for key, value in sorted(settings.settings.items()))
        self.description = f"openvino {version} threads={settings.threads}{extra}"

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        batch = self._batch
        if tiles.shape[1:] != batch.tile_shape or tiles.dtype != np.uint8:
            raise engine_failed()
        logits = np.empty((len(tiles), batch.classes), np.float32)
        whole = len(tiles) - len(tiles) % batch.size
        try:
            for start in range(0, whole, batch.size):
                batch.run(tiles[start : start + batch.size], logits[start : start + batch.size])
            for start in range(whole, len(tiles)):
                self._single = self._single or self._compile(1)
                self._single.run(tiles[start : start + 1], logits[start : start + 1])
        except MemoryError:
            raise out_of_memory() from None
        except Exception as error:  # any: none of them may leave as it is
            raise (out_of_memory() if ran_out_of_memory(error) else engine_failed()) from None
        return logits


def ran_out_of_memory(error: Exception) -> bool:
    """Whether `error` is a want of memory: OpenVINO raises RuntimeError for all, and only its text tells them apart."""
    return any(sign in str(error) for sign in _OUT_OF_MEMORY)


class _Compiled:
    """The model for exactly `size` tiles, with input and output of its own that every run uses again.

    Copying tiles into the input costs less than wrapping each batch as a tensor, and nothing of the caller's is kept.
    """

    def __init__(self, core: Any, model: bytes, properties: dict[str, str], size: int) -> None:
        graph = core.read_model(model=model)
        shape = graph.input(INPUT).partial_shape
        shape[0] = size
        graph.reshape({INPUT: shape})
        self._request = core.compile_model(graph, "CPU", properties).create_infer_request()
        self._input: NDArray[np.uint8] = self._request.get_tensor(INPUT).data
        self._output: NDArray[np.float32] = self._request.get_tensor(OUTPUT).data
        self.size = size
        self.tile_shape: tuple[int, ...] = self._input.shape[1:]
        self.classes: int = self._output.shape[1]

    def run(self, tiles: NDArray[np.uint8], logits: NDArray[np.float32]) -> None:
        """`tiles` uint8 [size, S, S, 3] to `logits` float32 [size, C]."""
        self._input[...] = tiles
        self._request.infer(share_outputs=True)
        logits[...] = self._output
