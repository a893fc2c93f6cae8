"""A signing key that a PKCS #11 token keeps: it signs there, and never leaves it.

The key is named by a URI of RFC 7512, such as
`pkcs11:token=lab;object=artifacts?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/secrets/pin`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_to_bytes

import pkcs11
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gramserve.errors import GramserveError, InvalidInput, Reason
from gramserve.store.signing import key_id

_RAW_BYTES = 32


class TokenSigner:
    """A private key in a token; `public_key` is its public half. Signs one after the other."""

    def __init__(self, key: Any, public_key: Ed25519PublicKey) -> None:
        self._key = key
        self._lock = threading.Lock()
        self.public_key = public_key

    @property
    def key_id(self) -> str:
        """Which key it is."""
        return key_id(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """The signature of `data`, made inside the token; raises GramserveError when the token does not."""
        try:
            with self._lock:
                return bytes(self._key.sign(data, mechanism=pkcs11.Mechanism.EDDSA))
        except pkcs11.PKCS11Error:
            raise GramserveError(Reason.INTERNAL, "the PKCS #11 token did not sign") from None


def open_token(uri: str) -> TokenSigner:
    """The Ed25519 key pair that `uri` names; raises InvalidInput (INVALID_SETTINGS) when it cannot be had."""
    path, _, query = uri.removeprefix("pkcs11:").partition("?")
    named, asked = _attributes(path, ";"), _attributes(query, "&")
    if "module-path" not in asked or "token" not in named or not named.keys() & {"object", "id"}:
        raise _refused("needs token, object or id, and module-path")
    wanted: dict[str, Any] = {}
    if "object" in named:
        wanted["label"] = unquote(named["object"])
    if "id" in named:
        wanted["id"] = unquote_to_bytes(named["id"])
    try:
        token = pkcs11.lib(unquote(asked["module-path"])).get_token(token_label=unquote(named["token"]))
        session = token.open(user_pin=_pin(asked))
        key = session.get_key(object_class=pkcs11.ObjectClass.PRIVATE_KEY, **wanted)
        public = session.get_key(object_class=pkcs11.ObjectClass.PUBLIC_KEY, **wanted)
        raw = bytes(public[pkcs11.Attribute.EC_POINT])[-_RAW_BYTES:]  # behind the head of an OCTET STRING
        return TokenSigner(key, Ed25519PublicKey.from_public_bytes(raw))
    except (pkcs11.PKCS11Error, RuntimeError, ValueError):  # what they say could hold the PIN
        raise _refused("names no Ed25519 key pair that can be had") from None


def _attributes(text: str, separator: str) -> dict[str, str]:
    parts = (part.partition("=") for part in text.split(separator) if part)
    return {name: value for name, _, value in parts}


def _pin(asked: dict[str, str]) -> str | None:
    if "pin-source" in asked:
        try:
            return Path(unquote(asked["pin-source"]).removeprefix("file:")).read_text().strip()
        except OSError:
            raise _refused("has a pin-source that cannot be read") from None
    return unquote(asked["pin-value"]) if "pin-value" in asked else None


def _refused(what: str) -> InvalidInput:
    return InvalidInput(Reason.INVALID_SETTINGS, f"the pkcs11: URI of the signing key {what}")
