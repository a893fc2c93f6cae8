"""What a check of `gramserve doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Health(StrEnum):
    """How bad it is: FAILED stops the work, WARNING slows, narrows or endangers it."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found, and what to do when it is not OK."""

    name: str
    health: Health
    found: str
    advice: str = ""
