"""The environment of a process that opens what others made."""

from __future__ import annotations

from collections.abc import Mapping

_SECRETS = ("GRAMSERVE_REDIS_URL", "GRAMSERVE_OPTIMIZER_SIGNING_KEY", "AWS_")


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` without the way to the queue, the keys of S3, and the PIN of a key that others sign with."""
    return {name: value for name, value in environ.items() if not name.upper().startswith(_SECRETS)}
