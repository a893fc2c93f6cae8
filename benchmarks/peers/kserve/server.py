"""KServe's Python server with a custom predictor.

Its gRPC server is one process with an event loop: the predictor is a coroutine that hands each run to as many threads
as there are cores, so that the loop is never held up and both cores compute. Its REST server cannot be left out.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from benchmarks.peers.session import MODEL, OUTPUT, Arguments, arguments, infer, open_session


class OnnxModel(Model):
    """The model, ready from the start."""

    def __init__(self, given: Arguments) -> None:
        super().__init__(MODEL)
        self._session = open_session(given.model)
        self._pool = ThreadPoolExecutor(given.cores)
        self.ready = True

    async def predict(
        self, payload: InferRequest, headers: dict | None = None, response_headers: dict | None = None
    ) -> InferResponse:
        """One request, one run."""
        tiles = payload.inputs[0].as_numpy()
        logits = await asyncio.get_running_loop().run_in_executor(self._pool, infer, self._session, tiles)
        output = InferOutput(name=OUTPUT, shape=list(logits.shape), datatype="FP32")
        output.set_data_from_numpy(logits)
        return InferResponse(response_id=payload.id, model_name=MODEL, infer_outputs=[output])


if __name__ == "__main__":
    options = arguments()
    ModelServer(http_port=options.spare_port, grpc_port=options.port, workers=1, access_log_format=None).start(
        [OnnxModel(options)]
    )
