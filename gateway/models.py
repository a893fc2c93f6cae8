"""Which models there are, which version is meant, and what their aliases stand for."""

from __future__ import annotations

from gateway.names import invalid
from gramserve.errors import InvalidInput, NotFound, Reason
from gramserve.store.objects import ObjectStore
from gramserve.store.records import AliasRecord
from gramserve.store.registry import PRODUCTION, Registry, Resolved


class Models:
    """Reads the registry as clients ask for it."""

    def __init__(self, objects: ObjectStore, registry: Registry) -> None:
        self._objects = objects
        self._registry = registry

    async def resolve(self, model: str) -> Resolved:
        """The version that a batch is frozen to.

        "" is the model in production where there is only one. Raises InvalidInput (INVALID_FIELD) and NotFound
        (UNKNOWN_MODEL, UNKNOWN_MODEL_VERSION).
        """
        if model:
            try:
                return await self._registry.resolve(model)
            except InvalidInput as error:
                raise InvalidInput(
                    error.reason, error.message, violations=[("slide_batch.model", error.message)]
                ) from None
        serving = [name for name in await self._registry.models() if await self._registry.alias(name, PRODUCTION)]
        if len(serving) != 1:
            raise invalid("slide_batch.model", f"must be given: {len(serving)} models are in production")
        return await self._registry.resolve(f"models/{serving[0]}")

    async def aliases(self, model: str) -> dict[str, AliasRecord]:
        """The movable names of a model and what they stand for."""
        found: dict[str, AliasRecord] = {}
        async for info in self._objects.list(f"models/{model}/aliases"):
            name = info.path.rpartition("/")[2]
            if (alias := await self._registry.alias(model, name)) is not None:
                found[name] = alias
        return found

    async def versions(self, model: str) -> list[int]:
        """The versions of a model, ascending, at least one; raises NotFound (UNKNOWN_MODEL)."""
        versions = await self._registry.versions(model)
        if not versions:
            raise NotFound(Reason.UNKNOWN_MODEL, f"there is no model {model}", metadata={"model": model})
        return versions
