"""PyTriton: Triton's core, the model in Python callables, one for each core, behind Triton's dynamic batching.

Triton's own scheduler batches what waits, without delay; PyTriton's is its documented default. There is no ONNX backend
in its package, so onnxruntime runs inside the callables, whose runs leave Python's lock.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig

from benchmarks.peers.session import INPUT, MODEL, OUTPUT, Arguments, arguments, infer, open_session

MAX_BATCH = 8


def instance(path: str) -> Callable[..., dict[str, np.ndarray]]:
    """A callable with a session of its own."""
    session = open_session(path)

    @batch
    def run(**inputs: np.ndarray) -> dict[str, np.ndarray]:
        return {OUTPUT: infer(session, inputs[INPUT])}

    return run


def serve(given: Arguments) -> None:
    """Until the process is ended."""
    config = TritonConfig(grpc_port=given.port, allow_http=False, allow_metrics=False, log_verbose=0)
    security = TritonSecurityConfig(restricted_endpoints=[])
    with Triton(config=config, security_config=security) as triton:
        triton.bind(
            model_name=MODEL,
            infer_func=[instance(given.model) for _ in range(given.cores)],
            inputs=[Tensor(name=INPUT, dtype=np.uint8, shape=(given.edge, given.edge, 3))],
            outputs=[Tensor(name=OUTPUT, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=0)),
        )
        triton.serve()


if __name__ == "__main__":
    serve(arguments())
