"""Bearer tokens: what a caller shows, and what is kept of it.

A token is "gst_<id>_<secret>": `id` (12 hexadecimal digits) finds it, `secret` (256 random bits, 64 hexadecimal digits)
proves it. Only the SHA-256 of the secret's bytes is kept; a secret of 256 random bits needs no slow hash, since it
cannot be guessed (NIST SP 800-63B, 5.1.2.2, asks for 112).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

_FORM = re.compile(r"gst_([0-9a-f]{12})_([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Token:
    """A token as its owner has it. `text` is shown once and never kept."""

    id: str
    secret: bytes

    @property
    def text(self) -> str:
        """What the caller sends behind "Bearer "."""
        return f"gst_{self.id}_{self.secret.hex()}"

    @property
    def sha256(self) -> str:
        """What is kept, 64 hexadecimal digits."""
        return hashlib.sha256(self.secret).hexdigest()

    def proves(self, sha256: str) -> bool:
        """Whether `sha256` was kept of this token; takes the same time for every answer."""
        return hmac.compare_digest(self.sha256, sha256)


def make_token(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> Token:
    """A new token."""
    return Token(random_bytes(6).hex(), random_bytes(32))


def read_token(text: str) -> Token | None:
    """The token in `text`; None when it is none."""
    found = _FORM.fullmatch(text)
    return Token(found[1], bytes.fromhex(found[2])) if found else None
