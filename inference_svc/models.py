"""Watches which versions are promoted, and has the children load them before a slide needs them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from gramserve import log
from gramserve.errors import GramserveError, Unavailable
from gramserve.metrics import Metrics
from gramserve.store.records import AliasRecord
from gramserve.store.registry import PRODUCTION, Resolved
from inference_svc.background import wait_for_either
from inference_svc.children import Children
from inference_svc.protocol import Failed
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
    """

    def __init__(
        self,
        registry: Promotions,
        children: Children,
        *,
        models: Callable[[], Awaitable[Sequence[str]]],
        most: int,
        poll_s: float,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._registry = registry
        self._models = models
        self._children = children
        self._most = most
        self._poll_s = poll_s
        self._metrics = metrics
        self._clock = clock
        self._log = log.get()
        self._known: dict[str, Resolved] = {}
        self._failed: dict[str, tuple[float, float]] = {}

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            await self.look()
            await wait_for_either(self._children.grew, self._poll_s)

    async def look(self) -> None:
        """Have the children load what is promoted now and not loaded yet."""
        try:
            promoted = await self._promoted()
        except GramserveError as error:
            self._log.warning("promoted versions cannot be looked up", reason=error.reason)
            return
        for version in promoted[: self._most]:
            _, until_s = self._failed.get(version.name, (0.0, 0.0))
            if self._clock() >= until_s:
                self._children.load(version.name, version.digest, partial(self._ended, version.name))

    async def _promoted(self) -> list[Resolved]:
        """The production versions, those promoted last first."""
        found: list[tuple[float, Resolved]] = []
        for model in await self._models():
            try:
                alias = await self._registry.alias(model, PRODUCTION)
                if alias is not None:
                    found.append((alias.time, await self._resolve(model, alias.version)))
            except Unavailable:
                raise
            except GramserveError as error:  # a damaged alias or manifest is the trouble of this model alone
                self._fail(f"models/{model}", error.reason)
        return [version for _, version in sorted(found, key=lambda one: one[0], reverse=True)]

    async def _resolve(self, model: str, version: int) -> Resolved:
        known = self._known.get(model)
        if known is None or known.version != version:
            known = await self._registry.resolve(f"models/{model}/versions/{version}")
            self._known[model] = known
        return known

    def _ended(self, version: str, ending: Ending) -> None:
        if isinstance(ending, Failed):
            self._fail(version, ending.cause or ending.reason)
        else:
            self._failed.pop(version, None)

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
