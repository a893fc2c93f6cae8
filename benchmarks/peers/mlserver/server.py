"""MLServer with its pool of inference workers, one process per core, as its documentation advises for a CPU."""

from __future__ import annotations

import asyncio

from mlserver import MLServer, ModelSettings, Settings
from mlserver.settings import ModelParameters

from benchmarks.peers.mlserver.runtime import OnnxRuntime
from benchmarks.peers.session import MODEL, Arguments, arguments


async def serve(given: Arguments) -> None:
    """Until the process is ended."""
    settings = Settings(
        debug=False,
        host="127.0.0.1",
        grpc_port=given.port,
        http_port=given.spare_port,
        metrics_endpoint=None,
        parallel_workers=given.cores,
    )
    model = ModelSettings(name=MODEL, implementation=OnnxRuntime, parameters=ModelParameters(uri=given.model))
    await MLServer(settings).start([model])


if __name__ == "__main__":
    asyncio.run(serve(arguments()))
