"""What a child may say: its words become labels of metrics, and those come from closed sets."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from gramserve.errors import Reason
from inference_svc.protocol import Failed, Finished, Message, Models, VersionLoaded

STAGES = ("load", "fetch", "decode", "tile", "infer", "aggregate")
LOAD_STEPS = ("fetch", "verify", "engine", "golden")

_STAGES = frozenset(STAGES)
_LOAD_STEPS = frozenset(LOAD_STEPS)
_REASONS = frozenset(reason.value for reason in Reason)
_CAUSES = _REASONS | {""}


def is_plausible(message: Message, given: AbstractSet[str]) -> bool:
    """Whether a child that was given work of the versions `given` can say this."""
    match message:
        case Finished(stages=stages):
            return stages.keys() <= _STAGES
        case Failed(reason=reason, cause=cause):
            return reason in _REASONS and cause in _CAUSES
        case VersionLoaded(version=version, load_s=load_s):
            return version in given and load_s.keys() <= _LOAD_STEPS
        case Models(versions):
            return given >= set(versions)
        case _:
            return True
