"""Under which name the outcome of a slide is kept for later slides of the same pixels.

What is kept is the outcome record itself under a second name, within its laboratory: a call says something of a
specimen, and one laboratory must not learn from another what it has seen. It is a hint: any of it may be missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from gramserve.store.codec import RecordCorrupt
from gramserve.store.records import ImageRecord, OutcomeRecord, SlideState

RULES = "1"
"""Part of every key: another number when the same artifact would call the same pixels otherwise than before."""


def reuse_key(artifact_digest: str, images: Sequence[ImageRecord], specimen_type: str) -> str:
    """The SHA-256 of all that decides a call; "" where the bytes of an image are not known by their digest."""
    digests = [image.sha256 or image.content_sha256 for image in images]
    if not all(digests) or not digests:
        return ""
    return hashlib.sha256("\n".join((RULES, artifact_digest, specimen_type, *digests)).encode()).hexdigest()


def read_reusable(data: bytes, artifact_digest: str) -> OutcomeRecord | None:
    """The outcome kept in `data`; None when it is no call of this artifact, or damaged."""
    try:
        outcome = OutcomeRecord.from_json(data)
    except RecordCorrupt:
        return None
    fits = outcome.state is SlideState.SUCCEEDED and outcome.artifact_digest == artifact_digest
    return outcome if fits and outcome.call is not None else None
