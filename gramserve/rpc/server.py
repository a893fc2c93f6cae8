"""A gRPC server as every service runs it: health, reflection, interceptors, graceful stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from gramserve.errors import Reason, Unsafe
from gramserve.metrics import Metrics
from gramserve.rpc import options
from gramserve.rpc.interceptors import ErrorsAndMetrics


class RpcServer:
    """One listening server. `names` are the full names of the services for reflection and health."""

    def __init__(
        self,
        listen: str,
        *,
        register: Sequence[Callable[[grpc.aio.Server], None]],
        names: Sequence[str],
        metrics: Metrics,
    ) -> None:
        self._server = grpc.aio.server(options=options.SERVER, interceptors=[ErrorsAndMetrics(metrics)])
        self._health = HealthServicer()
        self._names = ("", *names)
        self._listen = listen
        self.port = 0
        for add in register:
            add(self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        shown = (*names, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(shown, self._server)

    async def start(self) -> int:
        """Listen, not serving yet; returns the port. Raises Unsafe when the address is taken or cannot be used."""
        await self.set_serving(False)
        try:
            self.port = self._server.add_insecure_port(self._listen)
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise Unsafe(Reason.INVALID_SETTINGS, f"cannot listen on {self._listen}; is the port taken?")
        await self._server.start()
        return self.port

    async def set_serving(self, serving: bool) -> None:
        """Answer health checks of all services with SERVING or NOT_SERVING."""
        status: Any = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self._health.set(name, status)

    async def set_one_serving(self, name: str, serving: bool) -> None:
        """Answer health checks of `name`, which need not be a service, apart from all others."""
        status: Any = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set(name, status)

    async def stop(self, grace_s: float) -> None:
        """NOT_SERVING at once, then finish running calls for at most `grace_s` seconds, then close."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
