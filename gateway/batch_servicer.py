"""SlideBatchService: messages in, domain calls, messages out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from gateway.cancel import Canceller
from gateway.classify import SlideClassifier
from gateway.convert import batch_to_message, draft_to_message
from gateway.create import Creator
from gateway.listing import Listing
from gateway.names import invalid, parse_batch
from gateway.retry import Retrier
from gateway.views import Views
from gateway.watch import PAGE_EVENTS, Watcher, pages
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.v1 import slide_batch_pb2 as batches
from gramserve.v1 import slide_batch_service_pb2 as service
from gramserve.v1 import slide_pb2 as slides
from gramserve.v1.slide_batch_service_pb2_grpc import SlideBatchServiceServicer


class BatchServicer(SlideBatchServiceServicer):
    """The batch API; each method does what its rpc promises in protos/gramserve/v1/slide_batch_service.proto."""

    def __init__(
        self,
        creator: Creator,
        views: Views,
        listing: Listing,
        canceller: Canceller,
        retrier: Retrier,
        watcher: Watcher,
        classifier: SlideClassifier,
        audit: AuditLog,
    ) -> None:
        self._creator = creator
        self._views = views
        self._listing = listing
        self._canceller = canceller
        self._retrier = retrier
        self._watcher = watcher
        self._classifier = classifier
        self._audit = audit

    async def CreateSlideBatch(  # noqa: D102, N802
        self, request: service.CreateSlideBatchRequest, context: Any
    ) -> batches.SlideBatch:
        record = await self._creator.create(request)
        if request.validate_only:
            return draft_to_message(record)
        return batch_to_message(await self._views.view(record))

    async def GetSlideBatch(  # noqa: D102, N802
        self, request: service.GetSlideBatchRequest, context: Any
    ) -> batches.SlideBatch:
        record = await self._views.record(parse_batch(request.name))
        return batch_to_message(await self._views.view(record))

    async def ListSlideBatches(  # noqa: D102, N802
        self, request: service.ListSlideBatchesRequest, context: Any
    ) -> service.ListSlideBatchesResponse:
        views, token, damaged = await self._listing.list_batches(request)
        return service.ListSlideBatchesResponse(
            slide_batches=[batch_to_message(view) for view in views],
            next_page_token=token,
            unreachable=[name.resource for name in damaged],
        )

    async def ListSlides(  # noqa: D102, N802
        self, request: service.ListSlidesRequest, context: Any
    ) -> service.ListSlidesResponse:
        slides, token = await self._listing.list_slides(request)
        await self._audit.record(Action.RESULTS_READ, request.parent, slides=len(slides))
        return service.ListSlidesResponse(slides=slides, next_page_token=token)

    async def CancelSlideBatch(  # noqa: D102, N802
        self, request: service.CancelSlideBatchRequest, context: Any
    ) -> batches.SlideBatch:
        return batch_to_message(await self._canceller.cancel(parse_batch(request.name), request.etag))

    async def RetrySlideBatch(  # noqa: D102, N802
        self, request: service.RetrySlideBatchRequest, context: Any
    ) -> batches.SlideBatch:
        return batch_to_message(await self._retrier.retry(parse_batch(request.name), request.request_id))

    async def WatchSlideBatch(  # noqa: D102, N802
        self, request: service.WatchSlideBatchRequest, context: Any
    ) -> AsyncIterator[service.WatchSlideBatchResponse]:
        if request.after_sequence < 0:
            raise invalid("after_sequence", "must not be negative")
        size = min(max(request.page_size, 1), PAGE_EVENTS)
        told = False
        async for events in self._watcher.watch(parse_batch(request.name), request.after_sequence):
            if not told:  # a watch shows calls, as a page of slides does
                await self._audit.record(Action.RESULTS_READ, request.name, after=request.after_sequence)
                told = True
            for response in pages(events, size):
                yield response

    async def ClassifySlide(  # noqa: D102, N802
        self, request: service.ClassifySlideRequest, context: Any
    ) -> slides.Slide:
        return await self._classifier.classify(request, context.time_remaining())
