"""The model versions that a child has loaded: verified, bounded in bytes, least recently used first out."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from gramserve.errors import ArtifactInvalid, GramserveError, NotFound, Reason
from gramserve.runtime.artifact import MODEL, LoadedArtifact, load_artifact
from gramserve.runtime.choose import Choice, EngineChooser
from gramserve.runtime.steps import Steps
from gramserve.store import layout
from gramserve.store.objects import ObjectMissing
from gramserve.store.signing import MANIFEST, SIGNATURES, TrustedKeys

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


class Memory(Protocol):
    """The memory of this process; `inference_svc.footprint.ProcessMemory` is one."""

    def used(self) -> int:
        """Bytes in use, without what is mapped from files."""
        ...

    def trim(self) -> None:
        """Give back to the system what is not in use any more."""
        ...


@dataclass(frozen=True, slots=True)
class _Entry:
    artifact: LoadedArtifact
    size: int
    keys: TrustedKeys | None


class LoadedModels:
    """At most `most` versions in about `most_bytes`; `changed` hears the names of those loaded, and their bytes.

    `chosen` hears which engine serves a version and why, `loaded` of each version and its seconds by step. A version
    takes what the process grew by while it was loaded, and no less than its model file. It is loaded before any other
    goes, so that one that fails costs nobody anything; then the least recently used go, but never one that runs
    (`running`). A version that is larger than the bound alone is the only one kept.

    A version that failed is not tried again before a pause, which grows from half a second to a minute: a thousand
    slides that wait for a broken artifact shall not read it a thousand times. `clock` is monotonic, seconds.
    Where `trusted` gives keys, a version that none of them signed is not loaded; nothing but its manifest is read
    before. When they have changed, what was loaded is loaded and verified again before it runs, and what failed is
    tried again.
    """

    def __init__(
        self,
        objects: ByteSource,
        *,
        most: int,
        most_bytes: int,
        memory: Memory,
        changed: Callable[[tuple[str, ...], int], None],
        clock: Callable[[], float],
        chooser: EngineChooser | None = None,
        trusted: Callable[[], TrustedKeys] | None = None,
        chosen: Callable[[str, Choice], None] = lambda version, choice: None,
        loaded: Callable[[str, LoadedArtifact, dict[str, float]], None] = lambda version, artifact, seconds: None,
    ) -> None:
        self._objects = objects
        self._most = most
        self._most_bytes = most_bytes
        self._memory = memory
        self._changed = changed
        self._clock = clock
        self._chooser = chooser
        self._trusted = trusted
        self._keys = trusted() if trusted is not None else None
        self._chosen = chosen
        self._heard = loaded
        self._loaded: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._running: Counter[tuple[str, str]] = Counter()
        self._failed: OrderedDict[tuple[str, str, bool], tuple[Reason, float, float]] = OrderedDict()

    @contextmanager
    def running(self, version: str, digest: str) -> Iterator[None]:
        """Inside, this version is not let go; afterwards it may be, if there are too many now."""
        key = (version, digest)
        self._running[key] += 1
        try:
            yield
        finally:
            self._running[key] -= 1
            if not self._running[key]:
                del self._running[key]
                if self._too_much():
                    self._make_room(next(reversed(self._loaded)))
                    self._tell()

    def get(self, version: str, digest: str, *, spare: bool = False) -> LoadedArtifact:
        """The artifact with this name and manifest digest, loaded and verified now if need be (I13).

        `spare`: only into memory that is left; no other version goes for it.
        Raises ModelUnavailable; Unavailable when the store cannot be reached; MemoryError.
        """
        key = (version, digest)
        if self._trusted is not None and (keys := self._trusted()) is not self._keys:
            self._keys = keys
            self._failed.clear()
        known = self._loaded.get(key)
        if known is not None and known.keys is not self._keys:
            self._let_go(key)
            self._tell()
            known = None
        if known is not None:
            self._loaded.move_to_end(key)
            return known.artifact
        attempt = (*key, spare)
        if attempt in self._failed:
            reason, _, until_s = self._failed[attempt]
            if self._clock() < until_s:
                raise ModelUnavailable(version, reason)
        if (failure := self._try(key, spare=spare)) is not None:
            # Raised here, as an error that is chained to another one keeps what that one's frames hold: a whole model.
            self._fail(attempt, failure)
            raise ModelUnavailable(version, failure)
        self._failed.pop(attempt, None)
        self._tell()
        return self._loaded[key].artifact

    def _try(self, key: tuple[str, str], *, spare: bool) -> Reason | None:
        """Load a version and keep within the bounds; returns why that failed."""
        try:
            self._loaded[key] = self._load(*key, spare=spare)
        except (ArtifactInvalid, NotFound) as invalid:
            return invalid.reason
        except MemoryError:
            if not spare:
                raise
            return Reason.OUT_OF_MEMORY
        if spare and self._too_much():
            self._let_go(key)
            return Reason.OUT_OF_MEMORY
        self._make_room(key)
        return None

    def _load(self, version: str, digest: str, *, spare: bool) -> _Entry:
        name = _VERSION.fullmatch(version)
        if name is None:
            raise NotFound(Reason.UNKNOWN_MODEL_VERSION, "This is no name of a model version.")
        folder = layout.version_folder(name[1], int(name[2]))
        steps = Steps()
        try:
            with steps.step("fetch"):
                manifest = self._objects.get_sync(f"{folder}/{MANIFEST}")
        except ObjectMissing:
            raise NotFound(Reason.UNKNOWN_MODEL_VERSION, "This version does not exist.") from None
        keys = self._keys
        if keys is not None:
            with steps.step("verify"):
                keys.verify(manifest, self._signatures(folder))
        read: Callable[[str], bytes] = lambda file: self._objects.get_sync(f"{folder}/{file}")  # noqa: E731
        while True:
            self._memory.trim()
            before = self._memory.used()
            try:
                artifact = load_artifact(read, manifest, digest, chooser=self._chooser, steps=steps)
                break
            except MemoryError:
                if spare or (oldest := self._oldest()) is None:
                    raise
                self._let_go(oldest)
                self._tell()
        self._memory.trim()
        if artifact.choice is not None and artifact.choice.passed_over:
            self._chosen(version, artifact.choice)
        self._heard(version, artifact, steps.seconds)
        return _Entry(artifact, max(self._memory.used() - before, artifact.manifest.files[MODEL].bytes), keys)

    def _signatures(self, folder: str) -> bytes | None:
        try:
            return self._objects.get_sync(f"{folder}/{SIGNATURES}")
        except ObjectMissing:
            return None

    def _make_room(self, newest: tuple[str, str]) -> None:
        while self._too_much() and (oldest := self._oldest(newest)) is not None:
            self._let_go(oldest)

    def _too_much(self) -> bool:
        return len(self._loaded) > self._most or self._bytes() > self._most_bytes

    def _bytes(self) -> int:
        return sum(entry.size for entry in self._loaded.values())

    def _oldest(self, newest: tuple[str, str] | None = None) -> tuple[str, str] | None:
        """The least recently used version that may go."""
        return next((key for key in self._loaded if key != newest and key not in self._running), None)

    def _let_go(self, key: tuple[str, str]) -> None:
        del self._loaded[key]
        self._memory.trim()

    def _tell(self) -> None:
        self._changed(tuple(version for version, _ in self._loaded), self._bytes())

    def _fail(self, attempt: tuple[str, str, bool], reason: Reason) -> None:
        _, pause_s, _ = self._failed.get(attempt, (reason, FIRST_PAUSE_S / 2, 0.0))
        pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._failed[attempt] = (reason, pause_s, self._clock() + pause_s)
        self._failed.move_to_end(attempt)
        while len(self._failed) > 100:
            self._failed.popitem(last=False)
