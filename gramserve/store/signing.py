"""Signatures of artifacts: Ed25519 over manifest.json, whose digests stand for every other file.

What is signed is the pre-authentication encoding of DSSE v1, the envelope of in-toto and SLSA: so no signature of
something else can be passed off as that of an artifact. The signatures lie beside the manifest, in manifest.sig.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gramserve.errors import ArtifactInvalid, InvalidInput, Reason, Unsafe
from gramserve.metrics import Metrics
from gramserve.store.codec import Record, RecordCorrupt
from gramserve.tls.reloaded import Reloaded

MANIFEST, SIGNATURES = "manifest.json", "manifest.sig"
PAYLOAD_TYPE = "application/vnd.gramserve.artifact-manifest+json"
LOOK_S = 5.0
_PEM_END = b"-----END PUBLIC KEY-----"


class Signer(Protocol):
    """A private key: in a file, or in a token that never gives it out."""

    @property
    def key_id(self) -> str:
        """Which key it is: see `key_id`."""
        ...

    def sign(self, data: bytes) -> bytes:
        """The Ed25519 signature of `data`, 64 bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Signature(Record):
    """The signature by the key `key_id`, in base64."""

    key_id: str
    signature: str


@dataclass(frozen=True, slots=True)
class Signatures(Record):
    """manifest.sig: any number of signatures of one manifest.json, so that keys can be rotated."""

    signatures: tuple[Signature, ...]
    payload_type: str = PAYLOAD_TYPE


class FileSigner:
    """A private key in a file."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key

    @classmethod
    def load(cls, path: Path) -> FileSigner:
        """The key in `path`, PEM (PKCS #8), not encrypted; raises Unsafe when others could read it, InvalidInput."""
        try:
            mode = path.stat().st_mode
            data = path.read_bytes()
        except OSError:
            raise InvalidInput(Reason.INVALID_SETTINGS, "the signing key cannot be read") from None
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise Unsafe(Reason.INVALID_SETTINGS, "the signing key can be read by others than its owner: chmod 600")
        try:
            key = serialization.load_pem_private_key(data, None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidInput(Reason.INVALID_SETTINGS, "the signing key is no Ed25519 private key in PEM")
        return cls(key)

    @property
    def public_key(self) -> Ed25519PublicKey:
        """The public half."""
        return self._key.public_key()

    @property
    def key_id(self) -> str:
        """Which key it is."""
        return key_id(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`."""
        return self._key.sign(data)


class TrustedKeys:
    """The public keys whose signature makes an artifact fit to serve."""

    def __init__(self, keys: Sequence[Ed25519PublicKey]) -> None:
        self._keys = {key_id(key): key for key in keys}

    @classmethod
    def parse(cls, data: bytes) -> TrustedKeys:
        """The keys of a file with one PEM public key after the other; raises InvalidInput when there is none."""
        keys = []
        for part in data.split(_PEM_END)[:-1]:
            start = part.find(b"-----BEGIN PUBLIC KEY-----")
            try:
                key = serialization.load_pem_public_key(part[max(start, 0) :] + _PEM_END + b"\n")
            except ValueError:
                key = None
            if not isinstance(key, Ed25519PublicKey):
                raise InvalidInput(Reason.INVALID_SETTINGS, "the trusted keys hold something else than Ed25519 keys")
            keys.append(key)
        if not keys:
            raise InvalidInput(Reason.INVALID_SETTINGS, "the file of trusted keys has no public key in PEM")
        return cls(keys)

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The keys, by their ids."""
        return tuple(self._keys)

    @property
    def pem(self) -> bytes:
        """The keys as `parse` reads them."""
        kind = serialization.PublicFormat.SubjectPublicKeyInfo
        return b"".join(key.public_bytes(serialization.Encoding.PEM, kind) for key in self._keys.values())

    def verify(self, manifest: bytes, signatures: bytes | None) -> str:
        """The id of a trusted key that signed `manifest`; raises ArtifactInvalid (ARTIFACT_UNTRUSTED).

        `signatures` are the bytes of manifest.sig, None where there is none.
        """
        if signatures is None:
            raise _untrusted("has no signature")
        try:
            found = Signatures.from_json(signatures)
        except RecordCorrupt:
            raise _untrusted("has a signature that cannot be read") from None
        for one in found.signatures:
            key = self._keys.get(one.key_id)
            if key is not None and found.payload_type == PAYLOAD_TYPE and _is_valid(key, one, manifest):
                return one.key_id
        raise _untrusted("has no signature of a key that is trusted here")


def load_signer(reference: str) -> Signer:
    """The key that `reference` names: a file, or a `pkcs11:` URI (RFC 7512); raises InvalidInput, Unsafe."""
    if reference.startswith("pkcs11:"):
        from gramserve.store.signing_token import open_token  # noqa: PLC0415 - only with the extra [hsm]

        return open_token(reference)
    return FileSigner.load(Path(reference))


def load_trusted(path: str) -> TrustedKeys:
    """The keys in the file `path`; raises InvalidInput when it cannot be read or has none."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        raise InvalidInput(Reason.INVALID_SETTINGS, "the file of trusted keys cannot be read") from None
    return TrustedKeys.parse(data)


def follow_trusted(path: str, metrics: Metrics) -> Callable[[], TrustedKeys] | None:
    """What gives the keys in the file `path`, also after it changed; None for "": then no signature is asked for.

    A file that cannot be used any more changes nothing: `trusted_keys_unusable` is 1 then. Raises InvalidInput when it
    cannot be used now.
    """
    if not path:
        return None
    followed = Reloaded("trusted keys", (path,), partial(load_trusted, path))

    def unusable() -> float:
        followed.current()
        return float(bool(followed.refused))

    metrics.follow("trusted_keys_unusable", unusable)
    return followed.current


async def keep_looking(trusted: Callable[[], TrustedKeys] | None) -> None:
    """Looks for a changed file every few seconds, for ever: a child that starts later is given what held last."""
    while trusted is not None:
        await asyncio.to_thread(trusted)
        await asyncio.sleep(LOOK_S)


def go_on_trusting(path: str, before: bytes) -> Callable[[], TrustedKeys]:
    """As `follow_trusted`, in a process that is given the keys in PEM that held `before` it started."""
    first = TrustedKeys.parse(before)
    return Reloaded("trusted keys", (path,), partial(load_trusted, path), quiet=True, first=first).current


def sign_manifest(signer: Signer, manifest: bytes, earlier: bytes | None = None) -> bytes:
    """manifest.sig for the bytes of a manifest.json, with the signatures of other keys in `earlier`, if any."""
    kept: tuple[Signature, ...] = ()
    if earlier is not None:
        kept = tuple(one for one in Signatures.from_json(earlier).signatures if one.key_id != signer.key_id)
    signature = base64.b64encode(signer.sign(_encoding(manifest))).decode("ascii")
    return Signatures((*kept, Signature(signer.key_id, signature))).to_json()


def key_id(key: Ed25519PublicKey) -> str:
    """The SHA-256 of the raw public key, its first 16 hex digits."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


def _encoding(manifest: bytes) -> bytes:
    kind = PAYLOAD_TYPE.encode("ascii")
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(manifest), manifest)


def _is_valid(key: Ed25519PublicKey, one: Signature, manifest: bytes) -> bool:
    try:
        key.verify(base64.b64decode(one.signature, validate=True), _encoding(manifest))
    except (InvalidSignature, ValueError):
        return False
    return True


def _untrusted(what: str) -> ArtifactInvalid:
    return ArtifactInvalid(Reason.ARTIFACT_UNTRUSTED, f"The artifact {what}.", metadata={"file": SIGNATURES})
