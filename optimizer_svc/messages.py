"""What a job process says to the service: one JSON object a line on its standard output."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from gramserve.store.codec import RecordCorrupt, decode
from optimizer_svc.records import FailureRecord
from optimizer_svc.spec import TrialRow


@dataclass(frozen=True, slots=True)
class Going:
    """How far it is: the name of a stage, a sentence for people, the share done (0 to 1), the trials that changed."""

    stage: str
    message: str
    fraction: float
    elapsed_s: float = 0.0
    remaining_s: float = 0.0
    trials: tuple[TrialRow, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The artifact lies in the folder `result` of the workspace."""


@dataclass(frozen=True, slots=True)
class Failed:
    """There will be no artifact."""

    failure: FailureRecord


@dataclass(frozen=True, slots=True)
class Stopped:
    """It stopped because it was asked to; the workspace can be resumed."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An unexpected error: its type and place, never its message."""

    detail: str


Message = Going | Done | Failed | Stopped | Broken
_KINDS: dict[str, type[Message]] = {kind.__name__: kind for kind in (Going, Done, Failed, Stopped, Broken)}


def pack(message: Message) -> bytes:
    """A line for `unpack`."""
    return json.dumps({"kind": type(message).__name__, "fields": asdict(message)}).encode() + b"\n"


def unpack(line: bytes) -> Message:
    """The message in a line; raises ValueError for anything else."""
    try:
        entry = json.loads(line)
        return decode(_KINDS[entry["kind"]], json.dumps(entry["fields"]).encode())
    except (KeyError, TypeError, RecordCorrupt):
        raise ValueError("not a message of a job process") from None
