"""The model versions behind the names of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from gramserve.errors import GramserveError, NotFound, Unavailable
from gramserve.store.manifest import ArtifactManifest
from gramserve.store.registry import PRODUCTION, Resolved
from inference_svc.oip_contract import split
from inference_svc.process import ChildProcess

_MOST_KNOWN = 1024


class Versions(Protocol):
    """Where versions stand; `gramserve.store.registry.Registry` is one."""

    async def resolve(self, ref: str) -> Resolved:
        """The version and digest behind a name."""
        ...

    async def manifest(self, model: str, version: int) -> tuple[ArtifactManifest, str]:
        """The manifest of a version and its digest."""
        ...

    async def models(self) -> list[str]:
        """The models with at least one version."""
        ...

    async def versions(self, model: str) -> list[int]:
        """The versions of a model."""
        ...


class OipModels:
    """Looks a name up at most every `period_s` seconds; `children` are those that can work; `clock` is monotonic.

    A version that was promoted serves once a child has it loaded; until then, and while the store is away, the one
    before it does.
    """

    def __init__(
        self,
        registry: Versions,
        children: Callable[[], Iterable[ChildProcess]],
        *,
        period_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._children = children
        self._period_s = period_s
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[Resolved, float]] = {}

    def known(self, name: str, version: str) -> Resolved | None:
        """What `resolve` would give, where it was looked up a moment ago."""
        found, until_s = self._known.get((name, version), (None, 0.0))
        return found if self._clock() < until_s else None

    async def resolve(self, name: str, version: str) -> Resolved:
        """The version behind a model's name and a number, an alias or "" for production.

        Raises InvalidInput; NotFound (UNKNOWN_MODEL, UNKNOWN_MODEL_VERSION); Unavailable; ArtifactInvalid.
        """
        key, (model, _) = (name, version), split(name)
        before, _ = self._known.get(key, (None, 0.0))
        until_s = self._clock() + self._period_s
        if before is not None:
            self._known[key] = (before, until_s)  # while one caller looks, the others go on
        try:
            found = await self._registry.resolve(f"models/{model}/versions/{version or PRODUCTION}")
        except Unavailable:
            if before is None:
                raise
            return before
        except NotFound:
            self._known.pop(key, None)
            raise
        if before is not None and self.loaded(before) and not self.loaded(found):
            return before
        if len(self._known) >= _MOST_KNOWN:  # one version can be written in many ways
            self._known.clear()
        self._known[key] = (found, until_s)
        return found

    def loaded(self, version: Resolved) -> bool:
        """True while a child has it loaded."""
        return any(version.name in child.models for child in self._children())

    async def ready(self, name: str, version: str) -> bool:
        """True while a child has the version behind these names loaded; False where there is none."""
        try:
            return self.loaded(await self.resolve(name, version))
        except Unavailable:
            raise
        except GramserveError:
            return False

    async def manifest(self, name: str, version: str) -> ArtifactManifest:
        """The manifest of the version behind these names; raises what `resolve` raises."""
        found = await self.resolve(name, version)
        manifest, _ = await self._registry.manifest(found.model, found.version)
        return manifest

    async def index(self) -> list[tuple[Resolved, bool]]:
        """All versions of all models and whether they are loaded, by name, then number; raises Unavailable."""
        found = []
        for model in await self._registry.models():
            for number in await self._registry.versions(model):
                version = Resolved(model, number, "")
                found.append((version, self.loaded(version)))
        return found
