"""Which names an object can have, and which stores are remote."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from gramserve.errors import InvalidInput, Reason

# No leading dot: "." and ".." are no names, and the local writer's unfinished files start with one.
_SEGMENT = r"[A-Za-z0-9_][A-Za-z0-9._=+-]{0,199}"
_PATH = re.compile(rf"{_SEGMENT}(?:/{_SEGMENT}){{0,15}}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object of a listing: its path, its size in bytes and when it was last written (Unix seconds)."""

    path: str
    size: int
    modified_s: float


def is_remote(store_url: str) -> bool:
    """Whether a store is reached over the network: "s3://bucket/prefix", whatever the case of its scheme."""
    return urlsplit(store_url).scheme == "s3"


def check_path(path: str) -> str:
    """`path` itself; raises InvalidInput unless it is 1 to 16 plain segments of [A-Za-z0-9._=+-] joined by "/"."""
    if _PATH.fullmatch(path) is None:
        # The path is not repeated: it may have come from outside.
        raise InvalidInput(Reason.INVALID_FIELD, "This is not a name of the store.")
    return path


def check_folder(prefix: str) -> str:
    """`prefix` without its trailing slash; "" is the whole store; raises InvalidInput."""
    folder = prefix.removesuffix("/")
    return check_path(folder) if folder else ""


def check_after(after: str) -> str:
    """Where a listing goes on: "" or a path; raises InvalidInput."""
    return check_path(after) if after else ""


def check_sha256(sha256: str) -> str:
    """`sha256` itself; raises InvalidInput unless it is 64 lower-case hex digits."""
    if _SHA256.fullmatch(sha256) is None:
        raise InvalidInput(
            Reason.INVALID_FIELD,
            "A SHA-256 is 64 lower-case hex digits.",
            violations=[("sha256", "must be 64 lower-case hex digits")],
        )
    return sha256
