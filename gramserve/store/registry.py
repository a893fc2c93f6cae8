"""Artifacts, their versions and the movable names that stand for them."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gramserve.errors import ArtifactInvalid, Conflict, InvalidInput, NotFound, PreconditionFailed, Reason
from gramserve.store import layout
from gramserve.store.manifest import ArtifactDraft, ArtifactFile, ArtifactManifest, manifest_digest
from gramserve.store.objects import ObjectMissing, ObjectStore
from gramserve.store.recent import Recent
from gramserve.store.records import AliasRecord
from gramserve.store.signing import MANIFEST, SIGNATURES, Signer, TrustedKeys, sign_manifest

PRODUCTION = "production"
SHADOW = "shadow"
DEFAULT_SHARE = 0.1
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_OWN_FILES = {MANIFEST, SIGNATURES, "reserved"}
_HISTORY = 100
_RECENT_MANIFESTS = 64
_TRIES = 50


@dataclass(frozen=True, slots=True)
class Resolved:
    """One version of a model and the digest of its artifact."""

    model: str
    version: int
    digest: str

    @property
    def name(self) -> str:
        """The resource name, "models/{model}/versions/{version}"."""
        return f"models/{self.model}/versions/{self.version}"


class Registry:
    """Publishes and finds artifacts. A version never changes; an alias moves. `clock` gives Unix seconds.

    `signer` signs what is published; where `trusted` gives keys no alias moves to a version that none of them signed.
    """

    def __init__(
        self,
        objects: ObjectStore,
        clock: Callable[[], float] = time.time,
        *,
        signer: Signer | None = None,
        trusted: Callable[[], TrustedKeys] | None = None,
    ) -> None:
        self._objects = objects
        self._clock = clock
        self._signer = signer
        self._trusted = trusted
        self._manifests: Recent[tuple[str, int], tuple[ArtifactManifest, str]] = Recent(_RECENT_MANIFESTS)

    # Versions.

    async def models(self) -> list[str]:
        """The models with at least one version, sorted."""
        return [model for model in await self._objects.folders("models") if await self.versions(model)]

    async def versions(self, model: str) -> list[int]:
        """The published versions, ascending; empty for an unknown model."""
        return [
            number
            for number in await self._numbers(_check_model(model))
            if await self._objects.size(f"{layout.version_folder(model, number)}/manifest.json") is not None
        ]

    async def manifest(self, model: str, version: int) -> tuple[ArtifactManifest, str]:
        """The manifest of a version and its digest; raises NotFound, ArtifactInvalid (ARTIFACT_CORRUPT)."""
        return await asyncio.to_thread(self.manifest_sync, model, version)

    def manifest_sync(self, model: str, version: int) -> tuple[ArtifactManifest, str]:
        """`manifest` for code without an event loop."""
        known = self._manifests.get((_check_model(model), version))
        if known is not None:
            return known
        try:
            data = self._objects.get_sync(f"{layout.version_folder(model, version)}/manifest.json")
        except ObjectMissing:
            raise _unknown_version(model, str(version)) from None
        manifest = ArtifactManifest.from_json(data)
        if (manifest.model, manifest.version) != (model, version):
            raise ArtifactInvalid(Reason.ARTIFACT_CORRUPT, "manifest.json belongs to another version.")
        return self._manifests.add((model, version), (manifest, manifest_digest(data)))

    async def read_file(self, model: str, version: int, name: str) -> bytes:
        """A file of a version, size and SHA-256 checked against the manifest.

        Raises NotFound, ArtifactInvalid (ARTIFACT_INCOMPLETE: the file is not there; ARTIFACT_CORRUPT: it was altered).
        """
        return await asyncio.to_thread(self.read_file_sync, model, version, name)

    def read_file_sync(self, model: str, version: int, name: str) -> bytes:
        """`read_file` for code without an event loop."""
        manifest, _ = self.manifest_sync(model, version)
        expected = manifest.files.get(name)
        try:
            data = self._objects.get_sync(f"{layout.version_folder(model, version)}/{name}") if expected else None
        except ObjectMissing:
            data = None
        if expected is None or data is None:
            raise ArtifactInvalid(
                Reason.ARTIFACT_INCOMPLETE, f"The artifact has no file {name}.", metadata={"file": name}
            )
        if len(data) != expected.bytes or hashlib.sha256(data).hexdigest() != expected.sha256:
            raise ArtifactInvalid(
                Reason.ARTIFACT_CORRUPT, f"The file {name} of the artifact was altered.", metadata={"file": name}
            )
        return data

    async def publish(self, model: str, files: Mapping[str, bytes], draft: ArtifactDraft) -> tuple[int, str]:
        """Publishes the next version; returns its number and digest.

        The number is taken by creating "reserved"; manifest.json comes last and makes the version visible. Dying in
        between leaves a number unused. Two publishers get two numbers. The signature is there before the manifest.
        """
        _check_model(model)
        if any(_FILE.fullmatch(name) is None or name in _OWN_FILES for name in files):
            raise InvalidInput(Reason.INVALID_FIELD, "A file of an artifact has a name that cannot be used.")
        version = max(await self._numbers(model), default=0) + 1
        while not await self._objects.create(f"{layout.version_folder(model, version)}/reserved", b"\n"):
            version += 1
        # model_dump would turn the parts into dicts; these are checked and frozen already.
        facts = {name: getattr(draft, name) for name in ArtifactDraft.model_fields}
        entries = {
            name: ArtifactFile(sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)) for name, data in files.items()
        }
        data = ArtifactManifest(**facts, model=model, version=version, files=entries).to_json()
        for name, content in files.items():
            await self._objects.put(f"{layout.version_folder(model, version)}/{name}", content)
        if self._signer is not None:
            signatures = await asyncio.to_thread(sign_manifest, self._signer, data)
            await self._objects.put(f"{layout.version_folder(model, version)}/{SIGNATURES}", signatures)
        await self._objects.put(f"{layout.version_folder(model, version)}/{MANIFEST}", data)
        return version, manifest_digest(data)

    async def sign(self, model: str, version: int, signer: Signer) -> None:
        """Adds the signature of `signer` to those of a version; raises NotFound, RecordCorrupt."""
        manifest, earlier = await self._signed(_check_model(model), version)
        signatures = await asyncio.to_thread(sign_manifest, signer, manifest, earlier)
        await self._objects.put(f"{layout.version_folder(model, version)}/{SIGNATURES}", signatures)

    async def check_signature(self, model: str, version: int) -> None:
        """Raises ArtifactInvalid (ARTIFACT_UNTRUSTED) unless a trusted key signed the version, or none is asked for."""
        if self._trusted is not None:
            self._trusted().verify(*await self._signed(_check_model(model), version))

    async def _signed(self, model: str, version: int) -> tuple[bytes, bytes | None]:
        folder = layout.version_folder(model, version)
        manifest, signatures = await self._objects.get_many([f"{folder}/{MANIFEST}", f"{folder}/{SIGNATURES}"])
        if manifest is None:
            raise _unknown_version(model, str(version))
        return manifest, signatures

    # Aliases.

    async def alias(self, model: str, name: str) -> AliasRecord | None:
        """What `name` stands for; None when it stands for nothing. Raises RecordCorrupt."""
        try:
            record = AliasRecord.from_json(
                await self._objects.get(layout.alias_path(_check_model(model), _check_alias(name)))
            )
        except ObjectMissing:
            return None
        return record if record.version else None

    async def promote(
        self, model: str, version: int, alias: str = PRODUCTION, *, share: float | None = None
    ) -> AliasRecord:
        """Makes `alias` stand for `version`; nothing happens when it does.

        `share` (above 0, at most 1) is for the alias "shadow": the part of production's slides that it runs; None is
        what it was, or a tenth. Raises InvalidInput, NotFound, Conflict.
        """
        check_promotion(alias, share)
        await self.manifest(model, version)

        def change(before: AliasRecord | None) -> AliasRecord:
            kept = before.share if before is not None and before.share else DEFAULT_SHARE
            wanted = 0.0 if alias != SHADOW else kept if share is None else share
            if before is None:
                return AliasRecord(version, (), self._clock(), wanted)
            if before.version == version:
                return before if before.share == wanted else replace(before, time=self._clock(), share=wanted)
            return AliasRecord(version, _history(before), self._clock(), wanted)

        return await self._move(model, alias, change)

    async def remove(self, model: str, alias: str) -> None:
        """Makes `alias` stand for nothing; its history stays, so that `rollback` brings it back.

        Raises InvalidInput for "production", which is moved but never removed; Conflict.
        """
        if alias == PRODUCTION:
            raise _invalid_name("alias", 'must not be "production": promote another version, or roll back')
        if await self.alias(model, alias) is None:
            return

        def change(before: AliasRecord | None) -> AliasRecord:
            if before is None or not before.version:
                return before or AliasRecord(0)
            return AliasRecord(0, _history(before), self._clock(), before.share)

        await self._move(model, alias, change)

    async def rollback(self, model: str, alias: str = PRODUCTION) -> AliasRecord:
        """Makes `alias` stand for what it stood for before that; the last version leaves the history.

        Raises PreconditionFailed (NOTHING_TO_ROLL_BACK), Conflict, ArtifactInvalid (ARTIFACT_UNTRUSTED).
        """

        def change(before: AliasRecord | None) -> AliasRecord:
            if before is None or not before.history:
                raise PreconditionFailed(
                    Reason.NOTHING_TO_ROLL_BACK, "No version was promoted before the one that serves now."
                )
            return AliasRecord(before.history[-1], before.history[:-1], self._clock(), before.share)

        return await self._move(model, alias, change)

    async def resolve(self, ref: str) -> Resolved:
        """The version behind "models/m" (its production), "models/m/versions/3" or "models/m/versions/{alias}".

        Raises InvalidInput for anything else, NotFound (UNKNOWN_MODEL, UNKNOWN_MODEL_VERSION).
        """
        parts = ref.split("/")
        if len(parts) == 2:
            parts += ["versions", PRODUCTION]
        if len(parts) != 4 or parts[0] != "models" or parts[2] != "versions":
            raise _invalid_name("model", 'must be "models/{model}" or "models/{model}/versions/{version or alias}"')
        model, which = _check_model(parts[1]), parts[3]
        if which.isascii() and which.isdecimal():
            version = int(which)
        else:
            record = await self.alias(model, which)
            version = record.version if record is not None else 0
        try:
            _, digest = await self.manifest(model, version)
        except NotFound:
            if not await self.versions(model):
                raise NotFound(Reason.UNKNOWN_MODEL, f"There is no model {model}.", metadata={"model": model}) from None
            raise _unknown_version(model, which) from None
        return Resolved(model, version, digest)

    async def _move(self, model: str, alias: str, change: Callable[[AliasRecord | None], AliasRecord]) -> AliasRecord:
        """Replaces the alias by what `change` makes of it; begins again when somebody else was faster: none is lost."""
        path = layout.alias_path(_check_model(model), _check_alias(alias))
        after: AliasRecord | None = None
        for _ in range(_TRIES):
            tagged = await self._objects.get_tagged(path)
            before = AliasRecord.from_json(tagged[0]) if tagged is not None else None
            if before is not None and before == after:
                return before  # it was replaced all right, only the answer was lost
            after = change(before)
            if after == before:
                return after
            if after.version and (before is None or after.version != before.version):
                await self.check_signature(model, after.version)
            if tagged is None:
                moved = await self._objects.create(path, after.to_json())
            else:
                moved = await self._objects.replace(path, after.to_json(), tagged[1])
            if moved:
                return after
        raise Conflict(Reason.STALE_ETAG, "The alias is being moved by somebody else; try again.")

    async def _numbers(self, model: str) -> list[int]:
        names = await self._objects.folders(f"models/{model}/versions")
        return sorted(int(name) for name in names if name.isdecimal())


def _check_model(model: str) -> str:
    if _NAME.fullmatch(model) is None:
        raise _invalid_name("model", "must be 1 to 63 of [a-z0-9-], a letter first")
    return model


def _check_alias(alias: str) -> str:
    if _NAME.fullmatch(alias) is None:
        raise _invalid_name("alias", "must be 1 to 63 of [a-z0-9-], a letter first")
    return alias


def check_promotion(alias: str, share: float | None) -> None:
    """Raises InvalidInput unless `promote` takes this alias and share."""
    _check_alias(alias)
    if share is None or (alias == SHADOW and 0 < share <= 1):
        return
    wrong = "must be above 0 and at most 1" if alias == SHADOW else 'is for the alias "shadow" only'
    raise InvalidInput(Reason.INVALID_FIELD, f"share {wrong}", violations=[("share", wrong)])


def _history(before: AliasRecord) -> tuple[int, ...]:
    """The history of what comes after `before`."""
    return (*before.history, before.version)[-_HISTORY:] if before.version else before.history


def _invalid_name(field: str, wrong: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_FIELD, f"The name of the {field} {wrong}.", violations=[(field, wrong)])


def _unknown_version(model: str, version: str) -> NotFound:
    return NotFound(
        Reason.UNKNOWN_MODEL_VERSION,
        f"The model {model} has no version {version}.",
        metadata={"model": model, "version": version},
    )
