"""The client of the optimizer: bring a checkpoint and its data, start an optimization, follow it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import grpc

from gramserve.client.connection import PAGE_SIZE, Connection
from gramserve.client.content import Content
from gramserve.client.patience import Patience
from gramserve.client.uploading import upload
from gramserve.errors import GramserveError, Reason, Unavailable
from gramserve.rpc.status import from_rpc_error
from gramserve.tls.options import TlsOptions
from gramserve.v1 import optimizer_service_pb2 as optimizer
from gramserve.v1.optimization_pb2 import Optimization
from gramserve.v1.optimizer_service_pb2_grpc import OptimizerServiceStub
from gramserve.v1.upload_pb2 import UploadHeader, UploadStatus

TERMINAL_OPTIMIZATION_STATES = frozenset(
    {Optimization.STATE_SUCCEEDED, Optimization.STATE_FAILED, Optimization.STATE_CANCELLED}
)


class OptimizerClient(Connection):
    """A connection to the optimizer at `target` ("host:port"); use it as an async context manager.

    Messages are those of the contract (`gramserve.v1`). Every failure is a `gramserve.errors.GramserveError` with its
    reason. Calls that find the service away are repeated within `patience`; all of them are safe to repeat. `tls` and
    `token_file`: see `Connection`.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50053",
        *,
        patience: Patience | None = None,
        tls: TlsOptions | None = None,
        token_file: str = "",
    ) -> None:
        super().__init__(target, patience, tls=tls, token_file=token_file)
        self._optimizer = OptimizerServiceStub(self._channel)

    async def upload_file(self, file: Path | bytes) -> str:
        """Bring a checkpoint or a zip archive of data to the optimizer and return its SHA-256.

        Known bytes are not sent again. Raises OSError when the file cannot be read.
        """
        content = await Content.of(file)
        call_s = self._patience.call_s

        async def status() -> UploadStatus:
            request = optimizer.GetFileUploadRequest(sha256=content.sha256)
            return (await self._optimizer.GetFileUpload(request, timeout=call_s)).status

        async def send(messages: AsyncIterator[UploadHeader | bytes]) -> None:
            async def requests() -> AsyncIterator[optimizer.UploadFileRequest]:
                async for message in messages:
                    if isinstance(message, bytes):
                        yield optimizer.UploadFileRequest(chunk=message)
                    else:
                        yield optimizer.UploadFileRequest(header=message)

            await self._optimizer.UploadFile(requests())

        return await upload(content, parent="", patience=self._patience, status=status, send=send)

    async def create_optimization(
        self, optimization: Optimization, *, optimization_id: str = "", request_id: str = ""
    ) -> Optimization:
        """Create an optimization; when this returns it is durably queued.

        One `request_id` (a UUID4, made here when empty) is used for all attempts, so that none starts a second search.
        """
        request = optimizer.CreateOptimizationRequest(
            optimization_id=optimization_id, optimization=optimization, request_id=request_id or str(uuid.uuid4())
        )
        return await self._patience.call(self._optimizer.CreateOptimization, request)

    async def get_optimization(self, name: str) -> Optimization:
        """The optimization "optimizations/x"."""
        return await self._patience.call(self._optimizer.GetOptimization, optimizer.GetOptimizationRequest(name=name))

    async def list_optimizations(self) -> AsyncIterator[Optimization]:
        """Optimizations, newest first."""
        request = optimizer.ListOptimizationsRequest(page_size=PAGE_SIZE)
        while True:
            page = await self._patience.call(self._optimizer.ListOptimizations, request)
            for optimization in page.optimizations:
                yield optimization
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_optimization(self, name: str) -> AsyncGenerator[Optimization]:
        """The optimization at each change of its state or progress until it is terminal; connects again by itself."""
        last: Optimization | None = None
        backoff = self._patience.backoff()
        while True:
            call = self._optimizer.WatchOptimization(optimizer.WatchOptimizationRequest(name=name))
            try:
                async for event in call:
                    backoff.reset()
                    if event.optimization != last:
                        last = event.optimization
                        yield last
                    if last.state in TERMINAL_OPTIMIZATION_STATES:
                        return
                error: GramserveError = Unavailable(
                    Reason.SERVICE_UNAVAILABLE, "the optimizer ended the stream before its end"
                )
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            finally:
                call.cancel()
            await backoff.wait_after(error)

    async def cancel_optimization(self, name: str) -> Optimization:
        """Ask for cancellation; a running optimization stops at its next step."""
        return await self._patience.call(
            self._optimizer.CancelOptimization, optimizer.CancelOptimizationRequest(name=name)
        )
