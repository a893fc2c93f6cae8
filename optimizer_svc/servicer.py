"""OptimizerService on the wire: messages in, domain calls, messages out."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

from gramserve.access.principal import current
from gramserve.errors import PreconditionFailed, Reason
from gramserve.metrics import Metrics
from gramserve.store import layout
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.uploads import Uploads
from gramserve.v1 import optimization_pb2, optimizer_service_pb2, optimizer_service_pb2_grpc, upload_pb2
from optimizer_svc import names
from optimizer_svc.approval import check_promotion, name_of
from optimizer_svc.ending import Ending
from optimizer_svc.optimizations import SCOPE, Optimizations, order
from optimizer_svc.receiving import receive
from optimizer_svc.requests import read_request
from optimizer_svc.schedule import Schedule
from optimizer_svc.sources import Sources
from optimizer_svc.view import Views

SERVICE = optimizer_service_pb2.DESCRIPTOR.services_by_name["OptimizerService"].full_name
_LEAST_WATCH_POLL_S = 0.25


class OptimizerServicer(optimizer_service_pb2_grpc.OptimizerServiceServicer):
    """Thin: whatever it decides is decided elsewhere."""

    def __init__(
        self,
        optimizations: Optimizations,
        sources: Sources,
        schedule: Schedule,
        ending: Ending,
        views: Views,
        uploads: Uploads,
        metrics: Metrics,
        *,
        max_budget_minutes: float,
        poll_s: float,
        audit: AuditLog,
        four_eyes: bool = False,
        clock: Callable[[], float] = time.time,
        new_id: Callable[[], str] = lambda: f"opt-{secrets.token_hex(6)}",
    ) -> None:
        self._optimizations = optimizations
        self._sources = sources
        self._schedule = schedule
        self._ending = ending
        self._views = views
        self._uploads = uploads
        self._metrics = metrics
        self._max_budget_minutes = max_budget_minutes
        self._poll_s = max(poll_s, _LEAST_WATCH_POLL_S)
        self._four_eyes = four_eyes
        self._audit = audit
        self._clock = clock
        self._new_id = new_id

    async def UploadFile(  # noqa: N802
        self, request_iterator: AsyncIterator[optimizer_service_pb2.UploadFileRequest], context: Any
    ) -> optimizer_service_pb2.UploadFileResponse:
        """A checkpoint or an archive of data, in chunks."""
        return await receive(request_iterator, self._uploads, self._metrics, self._audit)

    async def GetFileUpload(  # noqa: N802
        self, request: optimizer_service_pb2.GetFileUploadRequest, context: Any
    ) -> optimizer_service_pb2.GetFileUploadResponse:
        """How far an upload has come."""
        found = await self._uploads.status(SCOPE, request.sha256, layout.checkpoint_path(request.sha256))
        status = upload_pb2.UploadStatus(sha256=request.sha256, complete=found.complete, next_offset=found.next_offset)
        return optimizer_service_pb2.GetFileUploadResponse(status=status)

    async def CreateOptimization(  # noqa: N802
        self, request: optimizer_service_pb2.CreateOptimizationRequest, context: Any
    ) -> optimization_pb2.Optimization:
        """Durable first, then queued, then answered."""
        caller = current()
        asked = read_request(
            request, new_id=self._new_id(), now_s=self._clock(), max_budget_minutes=self._max_budget_minutes
        )
        check_promotion(caller, promote=asked.promote, four_eyes=self._four_eyes)
        asked = replace(asked, created_by=name_of(caller))
        await self._sources.check(asked.checkpoint, folder_allowed=False)
        await self._sources.check(asked.data, folder_allowed=True)
        await self._audit.record(
            Action.OPTIMIZATION_CREATE, f"models/{asked.model}", checkpoint=asked.checkpoint.sha256
        )
        record = await self._optimizations.create(asked)
        if await self._optimizations.end(record.optimization) is None:
            await self._schedule.enqueue(record, fresh=record is asked)
        return await self._views.view(record)

    async def GetOptimization(  # noqa: N802
        self, request: optimizer_service_pb2.GetOptimizationRequest, context: Any
    ) -> optimization_pb2.Optimization:
        """One optimization."""
        return await self._views.view(await self._optimizations.get(names.parse(request.name)))

    async def ListOptimizations(  # noqa: N802
        self, request: optimizer_service_pb2.ListOptimizationsRequest, context: Any
    ) -> optimizer_service_pb2.ListOptimizationsResponse:
        """A page of them, newest first."""
        size, after = names.page_size(request.page_size), names.decode_token(request.page_token)
        rest = [r for r in await self._optimizations.newest_first() if after is None or order(r) > after]
        page = rest[:size]
        return optimizer_service_pb2.ListOptimizationsResponse(
            optimizations=[await self._views.view(record, trials=False) for record in page],
            next_page_token=names.encode_token(order(page[-1])) if len(rest) > size else "",
        )

    async def WatchOptimization(  # noqa: N802
        self, request: optimizer_service_pb2.WatchOptimizationRequest, context: Any
    ) -> AsyncIterator[optimizer_service_pb2.WatchOptimizationResponse]:
        """Its state now, and again whenever it changed; a slow reader misses what was in between."""
        record = await self._optimizations.get(names.parse(request.name))
        last: optimization_pb2.Optimization | None = None
        while last is None or not last.HasField("end_time"):
            now = await self._views.view(record)
            if now != last:
                last = now
                yield optimizer_service_pb2.WatchOptimizationResponse(optimization=now)
            else:
                await asyncio.sleep(self._poll_s)

    async def CancelOptimization(  # noqa: N802
        self, request: optimizer_service_pb2.CancelOptimizationRequest, context: Any
    ) -> optimization_pb2.Optimization:
        """Keeps the wish, then stops what waits; what runs stops at its next step."""
        record = await self._optimizations.get(names.parse(request.name))
        if await self._optimizations.end(record.optimization) is not None:
            raise PreconditionFailed(Reason.OPTIMIZATION_TERMINAL, "the optimization has ended")
        await self._audit.record(Action.OPTIMIZATION_CANCEL, f"optimizations/{record.optimization}")
        await self._optimizations.ask_to_cancel(record.optimization, self._clock())
        await self._ending.cancel(record.optimization)
        return await self._views.view(record)
