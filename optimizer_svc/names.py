"""Resource names of optimizations and models, and the pages of their listing."""

from __future__ import annotations

import base64
import binascii
import json
import re

from gramserve.errors import InvalidInput, Reason

MAX_PAGE = 1000
DEFAULT_PAGE = 50
_ID = re.compile(r"[a-z0-9][a-z0-9-]{3,62}")
_MODEL = re.compile(r"models/([a-z][a-z0-9-]{0,62})")
_UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")

Violations = list[tuple[str, str]]


def invalid(violations: Violations, reason: Reason = Reason.INVALID_FIELD) -> InvalidInput:
    """The error that names the fields that are wrong, the first one in its sentence."""
    field, rule = violations[0]
    return InvalidInput(reason, f"{field} {rule}", violations=violations)


def resource(optimization: str) -> str:
    """The resource name of an optimization."""
    return f"optimizations/{optimization}"


def parse(name: str) -> str:
    """The id in "optimizations/{optimization}"; raises InvalidInput."""
    head, _, optimization = name.partition("/")
    if head != "optimizations" or _ID.fullmatch(optimization) is None:
        raise invalid([("name", 'must be "optimizations/{optimization}"')])
    return optimization


def check_id(optimization: str, violations: Violations) -> str:
    """A wished id, which may be empty."""
    if optimization and _ID.fullmatch(optimization) is None:
        violations.append(("optimization_id", "must be 4 to 63 of [a-z0-9-], no hyphen first"))
    return optimization


def check_request_id(request_id: str, violations: Violations) -> str:
    """A request id in lower case; may be empty."""
    if request_id and _UUID4.fullmatch(request_id.lower()) is None:
        violations.append(("request_id", "must be a UUID4"))
    return request_id.lower()


def check_model(name: str, violations: Violations) -> str:
    """The id in "models/{model}"."""
    found = _MODEL.fullmatch(name)
    if found is None:
        violations.append(("optimization.model", 'must be "models/" and 1 to 63 of [a-z0-9-], a letter first'))
        return ""
    return found[1]


def page_size(requested: int) -> int:
    """How many entries a page has; raises InvalidInput when negative."""
    if requested < 0:
        raise invalid([("page_size", "must not be negative")])
    return min(requested or DEFAULT_PAGE, MAX_PAGE)


def encode_token(last: tuple[float, str]) -> str:
    """A token for the page behind the entry `last`, by its place in the order of the listing."""
    return base64.urlsafe_b64encode(json.dumps(["optimizations", *last]).encode()).decode().rstrip("=")


def decode_token(token: str) -> tuple[float, str] | None:
    """The place in a token; None for "", the first page. Raises InvalidInput (INVALID_PAGE_TOKEN)."""
    if not token:
        return None
    try:
        data = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        kind, time, optimization = json.loads(data)
        if kind == "optimizations":
            return float(time), str(optimization)
    except (binascii.Error, ValueError, TypeError, OverflowError, RecursionError):
        pass
    what = "was not made by this service for this request; begin with the first page"
    raise invalid([("page_token", what)], Reason.INVALID_PAGE_TOKEN)
