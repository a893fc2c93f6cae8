"""ONNX Runtime on the CPU."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from gramserve.runtime.engines.cpu import cpu_flags, int8_overflows
from gramserve.runtime.engines.engine import INPUT, OUTPUT, engine_failed, out_of_memory
from gramserve.store.manifest import EngineSettings

# Spinning threads of one process take the core from another: a worker has one process per core.
_ENTRIES = {"session.intra_op.allow_spinning": "0", "session.inter_op.allow_spinning": "0"}
# The kernels that cannot overflow where the CPU has no VNNI. With VNNI they change no number and cost a third of the
# speed, so they are asked for only where they are needed.
_EXACT = {"session.x64quantprecision": "1"}
# What a manifest may change; other entries could name files, load libraries or take more cores.
_FROM_MANIFEST = frozenset(_EXACT)


class OnnxRuntimeEngine:
    """A session with one thread, unless the manifest says otherwise; `settings` are its configuration entries."""

    def __init__(self, model: bytes, settings: EngineSettings) -> None:
        unknown = set(settings.settings) - _FROM_MANIFEST
        if unknown:
            raise ValueError(f"settings that are not offered: {sorted(unknown)}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 4  # what goes wrong is raised, and said by us
        exact = _EXACT if int8_overflows(cpu_flags()) else {}
        for key, value in {**_ENTRIES, **exact, **settings.settings}.items():
            options.add_session_config_entry(key, str(value))
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        extra = "".join(f" {key}={value}" for key, value in sorted(settings.settings.items()))
        self.description = f"onnxruntime {ort.__version__} threads={settings.threads}{extra}"

    def run(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """See `Engine.run`."""
        try:
            (logits,) = self._session.run([OUTPUT], {INPUT: tiles})
        except MemoryError:
            raise out_of_memory() from None
        except Exception:  # ONNX Runtime's own exceptions have no public base class
            raise engine_failed() from None
        return np.asarray(logits, np.float32)
