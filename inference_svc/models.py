"""Watches which versions are promoted, and has the children load them before a slide needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from gramserve import log
from gramserve.errors import GramserveError, Unavailable
from gramserve.metrics import Metrics
from gramserve.store.records import AliasRecord
from gramserve.store.registry import PRODUCTION, SHADOW, Resolved
from inference_svc.background import wait_for_either
from inference_svc.children import Children
from inference_svc.protocol import Failed
from inference_svc.shadow import Candidate
from inference_svc.work import Ending

FIRST_PAUSE_S = 5.0
LAST_PAUSE_S = 300.0


class Promotions(Protocol):
    """Where promoted versions stand; `gramserve.store.registry.Registry` is one."""

    async def alias(self, model: str, name: str) -> AliasRecord | None:
        """What the alias stands for."""
        ...

    async def resolve(self, ref: str) -> Resolved:
        """The version and digest behind a name."""
        ...


class ModelWatcher:
    """Looks every `poll_s` seconds; `models` names all models there are.

    A batch names its version itself, so nothing here can swap a model under it. At most `most` versions are loaded
    ahead, so that they do not push each other out. A version that cannot be verified is reported, and tried again after
    a pause of 5 seconds that doubles up to 5 minutes; all others go on serving.

    `follow` takes the versions in the shadow of those in production; `announce` hears of each model whether what is
    promoted can serve here.
    """

    def __init__(
        self,
        registry: Promotions,
        children: Children,
        *,
        models: Callable[[], Awaitable[Sequence[str]]],
        most: int,
        poll_s: float,
        follow: Callable[[Mapping[str, Candidate]], None],
        announce: Callable[[str, bool], Awaitable[None]],
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._models = models
        self._children = children
        self._most = most
        self._poll_s = poll_s
        self._follow = follow
        self._announce = announce
        self._metrics = metrics
        self._clock = clock
        self._log = log.get()
        self._known: dict[tuple[str, str], Resolved] = {}
        self._failed: dict[str, tuple[float, float]] = {}
        self._serving: dict[str, Resolved] = {}

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            await self.look()
            await wait_for_either(self._children.grew, self._poll_s)

    def serving(self, model: str) -> Resolved | None:
        """The version in production that all children have loaded: the one before until the promoted one is."""
        return self._serving.get(model)

    async def look(self) -> None:
        """Have the children load what is promoted now and not loaded yet."""
        try:
            models = await self._models()
            promoted = await self._promoted(models)
            self._follow(await self._shadows(promoted))
        except GramserveError as error:
            self._log.warning("promoted versions cannot be looked up", reason=error.reason)
            return
        for version in promoted[: self._most]:
            _, until_s = self._failed.get(version.name, (0.0, 0.0))
            if self._clock() >= until_s:
                self._children.load(version.name, version.digest, partial(self._ended, version))
            self._swap(version)
        await self._tell(models, promoted)

    async def _tell(self, models: Sequence[str], promoted: Sequence[Resolved]) -> None:
        failed = {model for model in models if f"models/{model}" in self._failed}
        failed |= {version.model for version in promoted if version.name in self._failed}
        self._metrics.set("models_failed", len(failed))
        for model in failed | self._serving.keys():
            await self._announce(model, model not in failed)

    async def _promoted(self, models: Sequence[str]) -> list[Resolved]:
        """The production versions, those promoted last first."""
        found: list[tuple[float, Resolved]] = []
        for model in models:
            try:
                alias = await self._registry.alias(model, PRODUCTION)
                if alias is not None:
                    found.append((alias.time, await self._resolve(model, PRODUCTION, alias.version)))
                self._failed.pop(f"models/{model}", None)
            except Unavailable:
                raise
            except GramserveError as error:  # a damaged alias or manifest is the trouble of this model alone
                self._fail(f"models/{model}", error.reason)
        return [version for _, version in sorted(found, key=lambda one: one[0], reverse=True)]

    async def _shadows(self, promoted: Sequence[Resolved]) -> dict[str, Candidate]:
        """What runs in the shadow of which production version, by the name of that."""
        found: dict[str, Candidate] = {}
        for production in promoted:
            try:
                alias = await self._registry.alias(production.model, SHADOW)
                if alias is not None and alias.version != production.version:
                    version = await self._resolve(production.model, SHADOW, alias.version)
                    found[production.name] = Candidate(version, production, alias.share)
            except Unavailable:
                raise
            except GramserveError as error:
                self._log.warning("shadow version cannot be found", model=production.model, reason=error.reason)
        return found

    async def _resolve(self, model: str, alias: str, version: int) -> Resolved:
        known = self._known.get((model, alias))
        if known is None or known.version != version:
            known = await self._registry.resolve(f"models/{model}/versions/{version}")
            self._known[model, alias] = known
        return known

    def _swap(self, version: Resolved) -> None:
        before = self._serving.get(version.model)
        if before == version or not self._children.all_have(version.name):
            return
        self._serving[version.model] = version
        self._failed.pop(version.name, None)
        self._log.info("promoted version serves", version=version.name, before=before.version if before else 0)

    def _ended(self, version: Resolved, ending: Ending) -> None:
        if isinstance(ending, Failed):
            self._fail(version.name, ending.cause or ending.reason)
        elif self._children.all_have(version.name):
            self._failed.pop(version.name, None)
            if version == self._known.get((version.model, PRODUCTION)):
                self._swap(version)

    def _fail(self, version: str, reason: str) -> None:
        now_s = self._clock()
        pause_s, until_s = self._failed.get(version, (FIRST_PAUSE_S / 2, 0.0))
        self._metrics.count("model_load_failures", reason=reason)
        if now_s < until_s:  # another child said so already
            return
        pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._failed[version] = (pause_s, now_s + pause_s)
        self._log.error(
            "promoted version cannot serve here; others do", version=version, reason=reason, pause_s=pause_s
        )
