"""Pages of listings: their sizes and their opaque tokens."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from gateway.names import invalid
from gramserve.errors import InvalidInput, Reason

MAX_PAGE = 1000
_CHECK_BYTES = 12


def page_size(requested: int, default: int) -> int:
    """How many entries a page has: `default` for 0, never more than 1000; raises InvalidInput when negative."""
    if requested < 0:
        raise invalid("page_size", "must not be negative")
    return min(requested or default, MAX_PAGE)


def encode_token(scope: tuple[str, ...], position: list[Any]) -> str:
    """A token for `position` that only the same listing, `scope` (method, parent, filter), takes back."""
    body = json.dumps(position, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(_check(scope, body) + body).decode().rstrip("=")


def decode_token(scope: tuple[str, ...], token: str, *kinds: type[str | int | float]) -> list[Any] | None:
    """The position in a token, one value of each of `kinds`; None for "", the first page.

    Raises InvalidInput (INVALID_PAGE_TOKEN). The check guards against mistakes; whoever forges one only moves around in
    what they may list anyway.
    """
    if not token:
        return None
    try:
        data = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        check, body = data[:_CHECK_BYTES], data[_CHECK_BYTES:]
        position = json.loads(body) if check == _check(scope, body) else None
    except (binascii.Error, ValueError, RecursionError):
        position = None
    if not isinstance(position, list) or tuple(map(type, position)) != kinds or _negative(position[0]):
        what = "was not made by this service for this request; begin with the first page"
        raise InvalidInput(Reason.INVALID_PAGE_TOKEN, f"page_token {what}", violations=[("page_token", what)])
    return position


def _negative(value: Any) -> bool:
    return isinstance(value, int) and value < 0


def _check(scope: tuple[str, ...], body: bytes) -> bytes:
    return hashlib.sha256("\0".join(scope).encode() + b"\0" + body).digest()[:_CHECK_BYTES]
