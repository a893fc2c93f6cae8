"""Ray Serve behind its gRPC proxy: one replica per core, with what its documentation advises for throughput."""

from __future__ import annotations

import signal

import numpy as np
import ray
from ray import serve
from ray.serve.config import gRPCOptions
from tritonclient.grpc import service_pb2 as pb

from benchmarks.peers.session import MODEL, OUTPUT, Arguments, arguments, infer, open_session

SERVICER = "tritonclient.grpc.service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


@serve.deployment(ray_actor_options={"num_cpus": 1}, max_ongoing_requests=4)
class OnnxModel:
    """One session in each replica; the proxy calls the method that the gRPC method is named for."""

    def __init__(self, path: str) -> None:
        self._session = open_session(path)

    async def ModelReady(self, request: pb.ModelReadyRequest) -> pb.ModelReadyResponse:  # noqa: N802
        """Ready as soon as it is asked."""
        return pb.ModelReadyResponse(ready=True)

    async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:  # noqa: N802
        """One request, one run; a replica does nothing else meanwhile."""
        tiles = np.frombuffer(request.raw_input_contents[0], np.uint8).reshape(list(request.inputs[0].shape))
        logits = infer(self._session, tiles)
        answer = pb.ModelInferResponse(model_name=MODEL, id=request.id, raw_output_contents=[logits.tobytes()])
        answer.outputs.add(name=OUTPUT, datatype="FP32", shape=logits.shape)
        return answer


def run(given: Arguments) -> None:
    """Until the process is asked to end."""
    ray.init(num_cpus=given.cores, include_dashboard=False, log_to_driver=False, configure_logging=False)
    serve.start(
        http_options={"port": given.spare_port, "host": "127.0.0.1"},
        grpc_options=gRPCOptions(port=given.port, grpc_servicer_functions=[SERVICER]),
    )
    serve.run(OnnxModel.options(num_replicas=given.cores).bind(given.model), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    run(arguments())
