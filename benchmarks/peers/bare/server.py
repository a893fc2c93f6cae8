"""grpc.aio and onnxruntime and nothing else: what a server could reach if it did nothing for its callers."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from benchmarks.peers.session import MODEL, OUTPUT, Arguments, arguments, infer, open_session


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """One session, run by as many threads as there are cores."""

    def __init__(self, given: Arguments) -> None:
        self._session = open_session(given.model)
        self._pool = ThreadPoolExecutor(given.cores)

    async def ModelReady(  # noqa: N802
        self, request: pb.ModelReadyRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelReadyResponse:
        """Ready as soon as it listens."""
        return pb.ModelReadyResponse(ready=True)

    async def ModelInfer(  # noqa: N802
        self, request: pb.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> pb.ModelInferResponse:
        """One request, one run."""
        tiles = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(request.inputs[0].shape)
        logits = await asyncio.get_running_loop().run_in_executor(self._pool, infer, self._session, tiles)
        answer = pb.ModelInferResponse(model_name=MODEL, id=request.id, raw_output_contents=[logits.tobytes()])
        answer.outputs.add(name=OUTPUT, datatype="FP32", shape=logits.shape)
        return answer


async def serve(given: Arguments) -> None:
    """Until the process is ended."""
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(given), server)
    server.add_insecure_port(f"127.0.0.1:{given.port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(arguments()))
