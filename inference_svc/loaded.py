"""The model versions that a child has loaded: verified, bounded, least recently used first out."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from gramserve.errors import ArtifactInvalid, GramserveError, NotFound, Reason
from gramserve.runtime.artifact import LoadedArtifact, load_artifact
from gramserve.store import layout
from gramserve.store.objects import ObjectMissing

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 60.0
_VERSION = re.compile(r"models/([a-z][a-z0-9-]{0,62})/versions/([1-9][0-9]{0,8})")


class ModelUnavailable(GramserveError):
    """A version cannot serve here now; `cause` is the reason beneath MODEL_UNAVAILABLE."""

    def __init__(self, version: str, cause: Reason) -> None:
        super().__init__(
            Reason.MODEL_UNAVAILABLE,
            f"The model version {version} cannot be used by this worker ({cause}); docs/worker.md says more.",
            metadata={"version": version, "cause": cause.value},
        )
        self.cause = cause


class ByteSource(Protocol):
    """Where artifacts lie; `gramserve.store.objects.ObjectStore` is one."""

    def get_sync(self, path: str) -> bytes:
        """The object at `path`; raises ObjectMissing, Unavailable."""
        ...


class LoadedModels:
    """At most `most` versions; `changed` hears the names of those loaded.

    A version that failed is not tried again before a pause, which grows from half a second to a minute: a thousand
    slides that wait for a broken artifact shall not read it a thousand times. `clock` is monotonic, seconds.
    """

    def __init__(
        self,
        objects: ByteSource,
        *,
        most: int,
        changed: Callable[[tuple[str, ...]], None],
        clock: Callable[[], float],
    ) -> None:
        self._objects = objects
        self._most = most
        self._changed = changed
        self._clock = clock
        self._loaded: OrderedDict[tuple[str, str], LoadedArtifact] = OrderedDict()
        self._failed: OrderedDict[tuple[str, str], tuple[ModelUnavailable, float, float]] = OrderedDict()

    def get(self, version: str, digest: str) -> LoadedArtifact:
        """The artifact with this name and manifest digest, loaded and verified now if need be (I13).

        Raises ModelUnavailable; Unavailable when the store cannot be reached; MemoryError.
        """
        key = (version, digest)
        known = self._loaded.get(key)
        if known is not None:
            self._loaded.move_to_end(key)
            return known
        error, pause_s, until_s = self._failed.get(key, (None, FIRST_PAUSE_S / 2, 0.0))
        if error is not None and self._clock() < until_s:
            raise error
        try:
            artifact = self._load(version, digest)
        except (ArtifactInvalid, NotFound) as invalid:
            pause_s = min(2 * pause_s, LAST_PAUSE_S)
            error = ModelUnavailable(version, invalid.reason)
            self._failed[key] = (error, pause_s, self._clock() + pause_s)
            self._failed.move_to_end(key)
            while len(self._failed) > 100:
                self._failed.popitem(last=False)
            raise error from None
        self._failed.pop(key, None)
        return artifact

    def _load(self, version: str, digest: str) -> LoadedArtifact:
        name = _VERSION.fullmatch(version)
        if name is None:
            raise NotFound(Reason.UNKNOWN_MODEL_VERSION, "This is no name of a model version.")
        folder = layout.version_folder(name[1], int(name[2]))
        # Room first, so that no more than `most` are ever in memory.
        while len(self._loaded) >= self._most:
            self._loaded.popitem(last=False)
        try:
            manifest = self._objects.get_sync(f"{folder}/manifest.json")
        except ObjectMissing:
            raise NotFound(Reason.UNKNOWN_MODEL_VERSION, "This version does not exist.") from None
        artifact = load_artifact(lambda file: self._objects.get_sync(f"{folder}/{file}"), manifest, digest)
        self._loaded[version, digest] = artifact
        self._changed(tuple(loaded for loaded, _ in self._loaded))
        return artifact
