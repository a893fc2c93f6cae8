"""The Open Inference Protocol: protos in, domain calls, protos out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.message import DecodeError

from gramserve.errors import GramserveError, InvalidInput, Reason
from gramserve.metrics import installed_version
from gramserve.oip import open_inference_pb2 as pb
from gramserve.oip.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from gramserve.rpc.options import MAX_MESSAGE_BYTES
from inference_svc.admission import Admission
from inference_svc.children import Children
from inference_svc.oip_contract import OF_IMAGES, config, metadata, split
from inference_svc.oip_models import OipModels
from inference_svc.oip_statistics import Statistics

SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
EXTENSIONS = ("model_configuration", "model_repository", "statistics")


class OpenInferenceServicer(GRPCInferenceServiceServicer):
    """Answers for the models of `models`, run by `admission`. `clock` is monotonic seconds, as of `time.monotonic`."""

    def __init__(
        self,
        models: OipModels,
        admission: Admission,
        children: Children,
        statistics: Statistics,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._models = models
        self._admission = admission
        self._children = children
        self._statistics = statistics
        self._clock = clock

    def register(self, server: grpc.aio.Server) -> None:
        """Add all calls to a server; ModelInfer takes and gives bytes, since only children look into tensors."""
        handlers = {}
        for method in SERVICE.methods:
            bare = method.name == "ModelInfer"
            request: Any = message_factory.GetMessageClass(method.input_type)
            response: Any = message_factory.GetMessageClass(method.output_type)
            handlers[method.name] = grpc.unary_unary_rpc_method_handler(
                getattr(self, method.name),
                request_deserializer=None if bare else request.FromString,
                response_serializer=None if bare else response.SerializeToString,
            )
        generic = grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)
        server.add_generic_rpc_handlers((generic,))

    async def ModelInfer(self, data: Any, context: Any) -> Any:  # noqa: N802
        """Runs a model: the bytes of a ModelInferRequest to those of its response."""
        began_s = self._clock()
        if len(data) > MAX_MESSAGE_BYTES:
            raise InvalidInput(
                Reason.MESSAGE_TOO_LARGE,
                f"the message has {len(data)} bytes, {MAX_MESSAGE_BYTES} are allowed; send fewer tiles at once",
            )
        name, which = _model_of(data)
        version = self._models.known(name, which) or await self._models.resolve(name, which)
        left_s = context.time_remaining()
        deadline_s = None if left_s is None else began_s + left_s
        try:
            done = await self._admission.infer(version.name, version.digest, data, deadline_s)
        except GramserveError:
            self._statistics.failed(name, version, self._clock() - began_s)
            raise
        self._statistics.succeeded(name, version, done, self._clock() - began_s)
        return done.blob

    async def ServerLive(self, request: pb.ServerLiveRequest, context: Any) -> pb.ServerLiveResponse:  # noqa: N802
        """True: it answers."""
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: pb.ServerReadyRequest, context: Any) -> pb.ServerReadyResponse:  # noqa: N802
        """True while a child can work."""
        return pb.ServerReadyResponse(ready=self._children.ready > 0 and not self._admission.closed)

    async def ServerMetadata(  # noqa: N802
        self, request: pb.ServerMetadataRequest, context: Any
    ) -> pb.ServerMetadataResponse:
        """What this is."""
        return pb.ServerMetadataResponse(name="gramserve", version=installed_version(), extensions=EXTENSIONS)

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Any) -> pb.ModelReadyResponse:  # noqa: N802
        """True while a child has the version loaded."""
        return pb.ModelReadyResponse(ready=await self._models.ready(request.name, request.version))

    async def ModelMetadata(  # noqa: N802
        self, request: pb.ModelMetadataRequest, context: Any
    ) -> pb.ModelMetadataResponse:
        """What a version takes and gives."""
        manifest = await self._models.manifest(request.name, request.version)
        return metadata(manifest, of_images=split(request.name)[1])

    async def ModelConfig(self, request: pb.ModelConfigRequest, context: Any) -> pb.ModelConfigResponse:  # noqa: N802
        """How a version is configured."""
        manifest = await self._models.manifest(request.name, request.version)
        return pb.ModelConfigResponse(
            config=config(manifest, of_images=split(request.name)[1], children=self._children.count)
        )

    async def ModelStatistics(  # noqa: N802
        self, request: pb.ModelStatisticsRequest, context: Any
    ) -> pb.ModelStatisticsResponse:
        """What versions did."""
        version = None
        if request.version:
            version = (await self._models.resolve(request.name, request.version)).version
        return pb.ModelStatisticsResponse(model_stats=self._statistics.shown(request.name, version))

    async def RepositoryIndex(  # noqa: N802
        self, request: pb.RepositoryIndexRequest, context: Any
    ) -> pb.RepositoryIndexResponse:
        """All versions of all models."""
        entry = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                entry(
                    name=version.model + suffix,
                    version=str(version.version),
                    state="READY" if loaded else "UNAVAILABLE",
                    reason="" if loaded else "not loaded; it is when it is asked for",
                )
                for version, loaded in await self._models.index()
                for suffix in ("", OF_IMAGES)
                if loaded or not request.ready
            ]
        )


def _model_of(data: bytes) -> tuple[str, str]:
    """Name and version of the model that a ModelInferRequest asks for.

    They have the numbers of a ModelReadyRequest's fields, and what that message does not know is passed over: the
    millions of numbers that a request may hold are unpacked in a child and never hold up the worker.
    """
    try:
        model = pb.ModelReadyRequest.FromString(data)
    except DecodeError:
        raise InvalidInput(Reason.INVALID_FIELD, "this is no request of the Open Inference Protocol") from None
    return model.name, model.version
