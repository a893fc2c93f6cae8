"""A gRPC server as every service runs it: health, reflection, interceptors, graceful stop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection

from gramserve.access.directory import Directory
from gramserve.access.rules import rules_of
from gramserve.errors import GramserveError, Reason, Unsafe
from gramserve.metrics import Metrics
from gramserve.rpc import options
from gramserve.rpc.access import AccessControl
from gramserve.rpc.interceptors import ErrorsAndMetrics
from gramserve.rpc.limits import CallLimiter, CallLimits
from gramserve.rpc.tls import server_credentials
from gramserve.rpc.tracing import Traced
from gramserve.tls.service import Tls
from gramserve.tracing import OFF, Tracer


class RpcServer:
    """One listening server. `names` are the full names of the services for reflection and health.

    It speaks TLS where `tls` serves, else plain text, beyond this machine only where `tls` allows it.
    `access` knows who may call; without it everybody may. `limits` bound calls at once; without them nothing does.
    `refused` is that of `ErrorsAndMetrics`. `tracer` makes a span of every call with one answer.
    """

    def __init__(
        self,
        listen: str,
        *,
        register: Sequence[Callable[[grpc.aio.Server], None]],
        names: Sequence[str],
        metrics: Metrics,
        tls: Tls | None = None,
        access: Directory | None = None,
        limits: CallLimits | None = None,
        refused: Callable[[str, GramserveError], None] = lambda method, error: None,
        tracer: Tracer = OFF,
    ) -> None:
        limits = limits or CallLimits()
        rules = rules_of(names)
        # The outermost first: errors of the others get their status, and the limits of a caller need to know who calls.
        interceptors: list[grpc.aio.ServerInterceptor] = [
            ErrorsAndMetrics(metrics, refused=refused),
            CallLimiter(limits),
        ]
        if access is not None:
            interceptors.insert(1, AccessControl(access, rules))
        if tracer is not OFF:
            interceptors.insert(0, Traced(tracer))
        self._access = access
        self._tls = tls or Tls()
        self._metrics = metrics
        self._following: list[asyncio.Task[None]] = []
        # What comes before our code, such as calls whose message never arrives, gRPC counts.
        self._server = grpc.aio.server(
            options=options.SERVER, interceptors=interceptors, maximum_concurrent_rpcs=limits.transport_calls
        )
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
        """Listen, not serving yet; returns the port. Raises Unsafe when the address is taken, unfit or not safe."""
        self._tls.check_listener("gRPC", self._listen)
        await self.set_serving(False)
        try:
            if self._tls.serves:
                self.port = self._server.add_secure_port(self._listen, server_credentials(self._tls))
            else:
                self.port = self._server.add_insecure_port(self._listen)
        except RuntimeError:
            self.port = 0
        if not self.port:
            raise Unsafe(Reason.INVALID_SETTINGS, f"cannot listen on {self._listen}; is the port taken?")
        if self._access is not None:
            self._following.append(asyncio.create_task(self._access.follow(), name="access"))
        await self._server.start()
        self._following.append(asyncio.create_task(self._tls.watch(self._metrics), name="certificates"))
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
        for task in self._following:
            task.cancel()
        await asyncio.gather(*self._following, return_exceptions=True)
