"""The client of the gateway: upload images, create batches, follow them, read their calls, look after models."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

import grpc

from gramserve.client.classifying import classify, inline
from gramserve.client.connection import PAGE_SIZE, Connection
from gramserve.client.content import Content
from gramserve.client.patience import Patience
from gramserve.client.uploading import upload
from gramserve.client.watching import EVENTS_TOGETHER, Reported, one_by_one
from gramserve.errors import GramserveError, Reason, Unavailable
from gramserve.rpc.status import from_rpc_error
from gramserve.tls.options import TlsOptions
from gramserve.v1 import image_service_pb2 as images
from gramserve.v1 import model_service_pb2 as models
from gramserve.v1 import operations_service_pb2
from gramserve.v1 import slide_batch_service_pb2 as batches
from gramserve.v1.image_service_pb2_grpc import ImageServiceStub
from gramserve.v1.model_pb2 import Model, ModelShadow, ModelVersion
from gramserve.v1.model_service_pb2_grpc import ModelServiceStub
from gramserve.v1.operations_pb2 import SystemStatus
from gramserve.v1.operations_service_pb2_grpc import OperationsServiceStub
from gramserve.v1.slide_batch_pb2 import Image, SlideBatch, SlideSource
from gramserve.v1.slide_batch_service_pb2_grpc import SlideBatchServiceStub
from gramserve.v1.slide_pb2 import Slide
from gramserve.v1.upload_pb2 import UploadHeader, UploadStatus

PARALLEL_UPLOADS = 8


class GramserveClient(Connection):
    """A connection to the gateway at `target` ("host:port") for one laboratory; use it as an async context manager.

    Messages are those of the contract (`gramserve.v1`). Every failure is a `gramserve.errors.GramserveError` with its
    reason. Calls that find the service away or without room are repeated within `patience`; all of them are safe to
    repeat, but for `rollback_model`, which is made once. `tls` and `token_file`: see `Connection`.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        laboratory: str = "default",
        patience: Patience | None = None,
        tls: TlsOptions | None = None,
        token_file: str = "",
    ) -> None:
        self.laboratory = f"laboratories/{laboratory}"
        super().__init__(target, patience, tls=tls, token_file=token_file)
        self._uploads = asyncio.Semaphore(PARALLEL_UPLOADS)
        self._images = ImageServiceStub(self._channel)
        self._batches = SlideBatchServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._operations = OperationsServiceStub(self._channel)

    # Images

    async def upload_image(self, image: Path | bytes) -> str:
        """Bring one encoded image (JPEG, PNG, TIFF) to the gateway and return its SHA-256, by which slides name it.

        Bytes that the laboratory sent before are not sent again; an upload that broke goes on where it stopped.
        Raises OSError when the file cannot be read.
        """
        async with self._uploads:
            return await self._upload(await Content.of(image))

    async def _upload(self, content: Content) -> str:
        call_s = self._patience.call_s

        async def status() -> UploadStatus:
            request = images.GetImageUploadRequest(parent=self.laboratory, sha256=content.sha256)
            return (await self._images.GetImageUpload(request, timeout=call_s)).status

        async def send(messages: AsyncIterator[UploadHeader | bytes]) -> None:
            async def requests() -> AsyncIterator[images.UploadImageRequest]:
                async for message in messages:
                    if isinstance(message, bytes):
                        yield images.UploadImageRequest(chunk=message)
                    else:
                        yield images.UploadImageRequest(header=message)

            await self._images.UploadImage(requests())

        return await upload(content, parent=self.laboratory, patience=self._patience, status=status, send=send)

    async def upload_slide(
        self, slide_id: str, fields: Sequence[Path | bytes], *, specimen_type: str = ""
    ) -> SlideSource:
        """Upload the fields of one slide and return it as `create_batch` takes it; slides may go side by side."""
        digests = await asyncio.gather(*(self.upload_image(field) for field in fields))
        return SlideSource(
            slide_id=slide_id, images=[Image(sha256=digest) for digest in digests], specimen_type=specimen_type
        )

    # Single slides

    async def inline_slide(
        self, slide_id: str, fields: Sequence[Path | bytes], *, specimen_type: str = ""
    ) -> SlideSource:
        """One slide with its small fields (up to 1 MiB) inside and its large ones uploaded: quickest for a few fields.

        Raises OSError when a file cannot be read.
        """
        contents = await inline(fields)
        images = [
            Image(content=data) if data is not None else Image(sha256=await self.upload_image(field))
            for data, field in zip(contents, fields, strict=True)
        ]
        return SlideSource(slide_id=slide_id, images=images, specimen_type=specimen_type)

    async def classify_slide(
        self,
        slide: SlideSource,
        *,
        model: str = "",
        timeout_s: float = 60.0,
        annotations: Mapping[str, str] = MappingProxyType({}),
        request_id: str = "",
    ) -> Slide:
        """Have one slide classified before all routine work and return it when it has ended: with its call, or FAILED.

        Repeated with one `request_id` while the service cannot be reached, within `patience`. Raises DeadlineExceeded
        after `timeout_s` seconds; its metadata names the batch ("slide_batch") from which the result can still be
        read, or the "request_id" with which to ask again. A cancelled call cancels a slide that has not begun.
        """
        return await classify(
            self._batches.ClassifySlide,
            slide,
            parent=self.laboratory,
            model=model,
            annotations=annotations,
            timeout_s=timeout_s,
            request_id=request_id,
            patience=self._patience,
        )

    # Batches

    async def create_batch(
        self,
        slides: Sequence[SlideSource] = (),
        *,
        model: str,
        manifest_uri: str = "",
        stat: bool = False,
        deliver_by: datetime | None = None,
        max_failed_ratio: float = 0.0,
        reuse_results: bool = True,
        annotations: Mapping[str, str] = MappingProxyType({}),
        batch_id: str = "",
        request_id: str = "",
        validate_only: bool = False,
    ) -> SlideBatch:
        """Create a batch; when this returns every slide is durably queued.

        `model` is "models/m", "models/m/versions/3" or "models/m/versions/production". `deliver_by` must know its time
        zone. Unless `reuse_results` is False, pixels that were called before by the same version get that call.
        One `request_id` (a UUID4, made here when empty) is used for all attempts, so that none makes a second
        batch; keep your own to make the call again after your process has died.
        """
        batch = SlideBatch(
            model=model,
            slides=slides,
            manifest_uri=manifest_uri,
            priority=SlideBatch.PRIORITY_STAT if stat else SlideBatch.PRIORITY_ROUTINE,
            max_failed_ratio=max_failed_ratio,
            annotations=annotations,
            result_reuse=SlideBatch.RESULT_REUSE_ON if reuse_results else SlideBatch.RESULT_REUSE_OFF,
        )
        if deliver_by is not None:
            batch.deliver_by.FromDatetime(deliver_by)
        request = batches.CreateSlideBatchRequest(
            parent=self.laboratory,
            slide_batch_id=batch_id,
            slide_batch=batch,
            request_id=request_id or str(uuid.uuid4()),
            validate_only=validate_only,
        )
        return await self._patience.call(self._batches.CreateSlideBatch, request)

    async def get_batch(self, batch: str) -> SlideBatch:
        """The batch (its name, or the last part of it): state, counts, first errors."""
        return await self._patience.call(
            self._batches.GetSlideBatch, batches.GetSlideBatchRequest(name=self.batch_name(batch))
        )

    async def list_batches(
        self,
        filter: str = "",  # noqa: A002  the word of the contract
        *,
        unreachable: set[str] | None = None,
    ) -> AsyncIterator[SlideBatch]:
        """Batches of the laboratory, newest first; `filter` for example "state=RUNNING".

        The names of those whose records are damaged are put into `unreachable`, whatever the filter.
        """
        request = batches.ListSlideBatchesRequest(parent=self.laboratory, page_size=PAGE_SIZE, filter=filter)
        while True:
            page = await self._patience.call(self._batches.ListSlideBatches, request)
            if unreachable is not None:
                unreachable.update(page.unreachable)
            for batch in page.slide_batches:
                yield batch
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def results(self, batch: str, filter: str = "") -> AsyncIterator[Slide]:  # noqa: A002  the word of the contract
        """Slides of a batch with their calls and errors, by index; `filter` for example "state=FAILED"."""
        request = batches.ListSlidesRequest(parent=self.batch_name(batch), page_size=PAGE_SIZE, filter=filter)
        while True:
            page = await self._patience.call(self._batches.ListSlides, request)
            for slide in page.slides:
                yield slide
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def watch_batch(
        self, batch: str, *, after_sequence: int = 0
    ) -> AsyncGenerator[batches.WatchSlideBatchResponse]:
        """Events of a batch until it is terminal: each change of a slide or of the batch once, without a gap.

        Connects again by itself, from the last sequence seen. Raises Unavailable when that fails for as long as
        `patience` lasts.
        """
        reported = Reported(after_sequence)
        backoff = self._patience.backoff()
        while True:
            request = batches.WatchSlideBatchRequest(
                name=self.batch_name(batch), after_sequence=reported.sequence, page_size=EVENTS_TOGETHER
            )
            call = self._batches.WatchSlideBatch(request)
            try:
                async for response in call:
                    backoff.reset()
                    for event in one_by_one(response):
                        if reported.is_new(event):
                            yield event
                # A batch that was retried has ended before: only the end of the stream is the end.
                if reported.ended:
                    return
                error: GramserveError = Unavailable(
                    Reason.SERVICE_UNAVAILABLE, "the gateway ended the stream before the batch ended"
                )
            except grpc.RpcError as rpc_error:
                error = from_rpc_error(rpc_error)
            finally:
                call.cancel()
            await backoff.wait_after(error)

    async def wait_for_batch(self, batch: str) -> SlideBatch:
        """The batch once it is terminal."""
        async with aclosing(self.watch_batch(batch)) as events:
            async for _ in events:
                pass
        return await self.get_batch(batch)

    async def cancel_batch(self, batch: str, *, etag: str = "") -> SlideBatch:
        """Ask for cancellation: slides that run finish, the others become CANCELLED."""
        request = batches.CancelSlideBatchRequest(name=self.batch_name(batch), etag=etag)
        backoff = self._patience.backoff()
        while True:
            try:
                return await self._batches.CancelSlideBatch(request, timeout=self._patience.call_s)
            except grpc.RpcError as error:
                refused = from_rpc_error(error)
                # A repeat finds what an attempt did whose answer was lost.
                if backoff.failures and refused.reason in {Reason.BATCH_TERMINAL, Reason.STALE_ETAG}:
                    found = await self.get_batch(batch)
                    if found.state in {SlideBatch.STATE_CANCELLING, SlideBatch.STATE_CANCELLED}:
                        return found
                await backoff.wait_after(refused)

    async def retry_batch(self, batch: str, *, request_id: str = "") -> SlideBatch:
        """Queue the failed slides of a terminal batch again."""
        request = batches.RetrySlideBatchRequest(
            name=self.batch_name(batch), request_id=request_id or str(uuid.uuid4())
        )
        return await self._patience.call(self._batches.RetrySlideBatch, request)

    def batch_name(self, batch: str) -> str:
        """The resource name of a batch given by it, as L/B as people are shown it, or by its last part."""
        if batch.count("/") == 1:
            laboratory, batch = batch.split("/")
            return f"laboratories/{laboratory}/slideBatches/{batch}"
        return batch if "/" in batch else f"{self.laboratory}/slideBatches/{batch}"

    # Models

    async def list_models(self) -> AsyncIterator[Model]:
        """Models by name."""
        request = models.ListModelsRequest(page_size=PAGE_SIZE)
        while True:
            page = await self._patience.call(self._models.ListModels, request)
            for model in page.models:
                yield model
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_model(self, name: str) -> Model:
        """The model "models/m"."""
        return await self._patience.call(self._models.GetModel, models.GetModelRequest(name=name))

    async def list_model_versions(self, name: str) -> AsyncIterator[ModelVersion]:
        """Versions of the model "models/m", newest first."""
        request = models.ListModelVersionsRequest(parent=name, page_size=PAGE_SIZE)
        while True:
            page = await self._patience.call(self._models.ListModelVersions, request)
            for version in page.model_versions:
                yield version
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_model_version(self, name: str) -> ModelVersion:
        """The version "models/m/versions/3" or "models/m/versions/production"."""
        return await self._patience.call(self._models.GetModelVersion, models.GetModelVersionRequest(name=name))

    async def promote_model_version(self, name: str, *, alias: str = "production", share: float = 0.0) -> Model:
        """Point `alias` at the version "models/m/versions/3"; batches created from now on use it.

        `share` is for the alias "shadow": the part of production's slides (above 0, at most 1) that it runs, too.
        """
        request = models.PromoteModelVersionRequest(name=name, alias=alias, share=share)
        return await self._patience.call(self._models.PromoteModelVersion, request)

    async def rollback_model(self, name: str, *, alias: str = "production") -> Model:
        """Point `alias` of "models/m" back at the version before. Not repeated: twice would go further back."""
        request = models.RollbackModelRequest(name=name, alias=alias)
        try:
            return await self._models.RollbackModel(request, timeout=self._patience.call_s)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None

    async def remove_model_alias(self, name: str, alias: str) -> Model:
        """Let `alias` of "models/m" point at nothing; not for "production"."""
        request = models.RemoveModelAliasRequest(name=name, alias=alias)
        return await self._patience.call(self._models.RemoveModelAlias, request)

    async def model_shadow(self, name: str, *, production: int = 0, shadow: int = 0) -> ModelShadow:
        """How the shadow of "models/m" compares with production; numbers of versions, 0 for those of now."""
        request = models.GetModelShadowRequest(
            name=f"{name}/shadow", production_version=production, shadow_version=shadow
        )
        return await self._patience.call(self._models.GetModelShadow, request)

    # Operations

    async def system_status(self, accepted_since: datetime | None = None) -> SystemStatus:
        """How the system stands: queue, workers, open batches and those accepted since; default: the last 12 hours."""
        request = operations_service_pb2.GetSystemStatusRequest()
        if accepted_since is not None:
            request.accepted_since.FromDatetime(accepted_since)
        return await self._patience.call(self._operations.GetSystemStatus, request)
