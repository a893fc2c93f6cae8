"""Engines run the model of an artifact on tiles; each is one class and one entry in `ENGINES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gramserve.errors import ArtifactInvalid, Reason, SlideFailed
from gramserve.store.manifest import EngineSettings

INPUT = "tiles"
OUTPUT = "logits"


class Engine(Protocol):
    """A model that is ready to run."""

    @property
    def description(self) -> str:
        """Engine, version and settings for a person, such as "onnxruntime 1.32.0 threads=1"."""
        ...

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Tiles uint8 RGB [N, S, S, 3] to logits float32 [N, C]; raises SlideFailed (ENGINE_FAILED, OUT_OF_MEMORY)."""
        ...


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU.

    One thread unless the manifest says otherwise: a worker has one process per core, and spinning threads of one
    process take the core from another. Entries of `settings` are session configuration entries of ONNX Runtime.
    """

    def __init__(self, model: bytes, settings: EngineSettings) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # what goes wrong is raised, and said by us
        entries = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0", **settings.settings}
        for key, value in entries.items():
            options.add_session_config_entry(key, str(value))
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        extra = "".join(f" {key}={value}" for key, value in sorted(settings.settings.items()))
        self.description = f"onnxruntime {ort.__version__} threads={settings.threads}{extra}"

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: tiles})
        except MemoryError:
            raise SlideFailed(
                Reason.OUT_OF_MEMORY, "There was not enough memory to run the model.", retryable=True
            ) from None
        except Exception:  # ONNX Runtime's own exceptions have no public base class
            raise SlideFailed(Reason.ENGINE_FAILED, "The engine failed on this slide.", retryable=True) from None
        return np.asarray(logits, np.float32)


ENGINES: Final[Mapping[str, Callable[[bytes, EngineSettings], Engine]]] = MappingProxyType(
    {"onnxruntime": OnnxRuntimeEngine}
)


def open_engine(model: bytes, settings: EngineSettings) -> Engine:
    """The engine that `settings` name, with `model` (the bytes of model.onnx) loaded.

    Raises ArtifactInvalid: MODEL_UNAVAILABLE when this program has no such engine, ARTIFACT_CORRUPT when the engine
    cannot load the model.
    """
    factory = ENGINES.get(settings.name)
    if factory is None:
        raise ArtifactInvalid(
            Reason.MODEL_UNAVAILABLE,
            f"The artifact needs the engine {settings.name}, which is not part of this program; "
            f"there is {', '.join(sorted(ENGINES))}.",
            metadata={"engine": settings.name},
        )
    try:
        return factory(model, settings)
    except Exception:  # any engine, any exception: none of them may leave as it is
        raise ArtifactInvalid(
            Reason.ARTIFACT_CORRUPT,
            f"The engine {settings.name} cannot load model.onnx.",
            metadata={"file": "model.onnx"},
        ) from None
