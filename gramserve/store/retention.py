"""How long each kind of record is kept."""

from __future__ import annotations

from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class RetentionDays:
    """Days, 0 for ever: of `batches` since their end, of anything else since it was written.

    batches: slides, results and output; what is left is a tombstone, and the request ids that made them.
    images: those that no kept batch refers to. uploads: parts of unfinished ones. reuse: calls for the same pixels.
    optimizations: reports, trials and stages of those that ended. audit: files of days.
    """

    batches: float = 0.0
    images: float = 0.0
    uploads: float = 7.0
    reuse: float = 0.0
    optimizations: float = 0.0
    audit: float = 0.0
