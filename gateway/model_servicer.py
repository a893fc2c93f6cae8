"""ModelService: which artifacts there are and which of them serves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from gateway.approval import Approval
from gateway.convert import model_to_message, shadow_to_message
from gateway.models import Models
from gateway.names import invalid
from gateway.paging import decode_token, encode_token, page_size
from gateway.shadow import Comparer
from gramserve.errors import ArtifactInvalid, NotFound, PreconditionFailed, Reason
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.messages import version_to_message
from gramserve.store.registry import PRODUCTION, Registry, check_promotion
from gramserve.v1 import model_pb2
from gramserve.v1 import model_service_pb2 as service
from gramserve.v1.model_service_pb2_grpc import ModelServiceServicer

_PAGE = 50


class ModelServicer(ModelServiceServicer):
    """The model API; each method does what its rpc promises in protos/gramserve/v1/model_service.proto."""

    def __init__(
        self, models: Models, registry: Registry, comparer: Comparer, approval: Approval, audit: AuditLog
    ) -> None:
        self._models = models
        self._registry = registry
        self._comparer = comparer
        self._approval = approval
        self._audit = audit

    async def ListModels(  # noqa: D102, N802
        self, request: service.ListModelsRequest, context: Any
    ) -> service.ListModelsResponse:
        size, scope = page_size(request.page_size, _PAGE), ("models",)
        position = decode_token(scope, request.page_token, str)
        names = [name for name in await self._registry.models() if position is None or name > position[0]]
        return service.ListModelsResponse(
            models=[await self._model(name) for name in names[:size]],
            next_page_token=encode_token(scope, [names[size - 1]]) if len(names) > size else "",
        )

    async def GetModel(self, request: service.GetModelRequest, context: Any) -> model_pb2.Model:  # noqa: D102, N802
        return await self._model(_model_id(request.name, "name"))

    async def ListModelVersions(  # noqa: D102, N802
        self, request: service.ListModelVersionsRequest, context: Any
    ) -> service.ListModelVersionsResponse:
        model = _model_id(request.parent, "parent")
        size, scope = page_size(request.page_size, _PAGE), ("versions", model)
        position = decode_token(scope, request.page_token, int)
        versions = sorted(await self._models.versions(model), reverse=True)
        rest = [version for version in versions if position is None or version < position[0]]
        return service.ListModelVersionsResponse(
            model_versions=[await self._version(model, version) for version in rest[:size]],
            next_page_token=encode_token(scope, [rest[size - 1]]) if len(rest) > size else "",
        )

    async def GetModelVersion(  # noqa: D102, N802
        self, request: service.GetModelVersionRequest, context: Any
    ) -> model_pb2.ModelVersion:
        resolved = await self._registry.resolve(_version_name(request.name))
        return await self._version(resolved.model, resolved.version)

    async def PromoteModelVersion(  # noqa: D102, N802
        self, request: service.PromoteModelVersionRequest, context: Any
    ) -> model_pb2.Model:
        name = _version_name(request.name)
        if not name.rpartition("/")[2].isdecimal():
            raise invalid("name", 'must end with the number of a version: "models/{model}/versions/{number}"')
        resolved = await self._registry.resolve(name)
        await self._approval.check(resolved.model, resolved.version)
        alias, share = request.alias or PRODUCTION, request.share or None
        check_promotion(alias, share)
        with _untrusted_is_no_damage():
            await self._registry.check_signature(resolved.model, resolved.version)
            await self._audit.record(
                Action.MODEL_PROMOTE, resolved.name, artifact=resolved.digest, alias=alias, share=f"{share or 0:g}"
            )
            await self._registry.promote(resolved.model, resolved.version, alias, share=share)
        return await self._model(resolved.model)

    async def RollbackModel(  # noqa: D102, N802
        self, request: service.RollbackModelRequest, context: Any
    ) -> model_pb2.Model:
        model = _model_id(request.name, "name")
        await self._models.versions(model)
        alias = request.alias or PRODUCTION
        await self._audit.record(Action.MODEL_ROLL_BACK, f"models/{model}", **await self._before(model, alias))
        with _untrusted_is_no_damage():
            await self._registry.rollback(model, alias)
        return await self._model(model)

    async def RemoveModelAlias(  # noqa: D102, N802
        self, request: service.RemoveModelAliasRequest, context: Any
    ) -> model_pb2.Model:
        model = _model_id(request.name, "name")
        await self._models.versions(model)
        before = await self._before(model, request.alias)
        await self._audit.record(Action.MODEL_REMOVE_ALIAS, f"models/{model}", **before)
        await self._registry.remove(model, request.alias)
        return await self._model(model)

    async def GetModelShadow(  # noqa: D102, N802
        self, request: service.GetModelShadowRequest, context: Any
    ) -> model_pb2.ModelShadow:
        name, _, last = request.name.rpartition("/")
        if last != "shadow":
            raise invalid("name", 'must be "models/{model}/shadow"')
        for field in ("production_version", "shadow_version"):
            if getattr(request, field) < 0:
                raise invalid(field, "must be the number of a version, or 0")
        found = await self._comparer.compare(
            _model_id(name, "name"), production=request.production_version, candidate=request.shadow_version
        )
        return shadow_to_message(found)

    async def _before(self, model: str, alias: str) -> dict[str, str]:
        """What the audit record says of an alias that is about to move: the version that it leaves, and its digest.

        Without the digest where the version cannot be read: that is when it must be left.
        """
        known = await self._registry.alias(model, alias)
        if known is None:
            return {"alias": alias}
        left = {"alias": alias, "version": str(known.version)}
        with suppress(ArtifactInvalid, NotFound):
            _, left["artifact"] = await self._registry.manifest(model, known.version)
        return left

    async def _model(self, model: str) -> model_pb2.Model:
        versions = await self._models.versions(model)
        return model_to_message(model, await self._models.aliases(model), versions[-1])

    async def _version(self, model: str, version: int) -> model_pb2.ModelVersion:
        manifest, digest = await self._registry.manifest(model, version)
        aliases = await self._models.aliases(model)
        pointing = sorted(name for name, alias in aliases.items() if alias.version == version)
        return version_to_message(manifest, digest, pointing)


@contextmanager
def _untrusted_is_no_damage() -> Iterator[None]:
    """To a client a version without a trusted signature is in the wrong state: somebody may sign it."""
    try:
        yield
    except ArtifactInvalid as error:
        if error.reason is not Reason.ARTIFACT_UNTRUSTED:
            raise
        raise PreconditionFailed(error.reason, error.message) from None


def _model_id(name: str, field: str) -> str:
    head, _, model = name.partition("/")
    if head != "models" or not model or "/" in model:
        raise invalid(field, 'must be "models/{model}"')
    return model


def _version_name(name: str) -> str:
    if name.count("/") != 3:
        raise invalid("name", 'must be "models/{model}/versions/{version}"')
    return name
