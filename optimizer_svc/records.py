"""What the store keeps about an optimization: one frozen dataclass for each kind of object.

Times are Unix seconds. References name files of the laboratory: no record is logged or put into Redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gramserve import errors
from gramserve.errors import GramserveError, InvalidInput, Reason
from gramserve.store.codec import Record
from optimizer_svc.spec import TrialRow


class State(StrEnum):
    """Where an optimization stands; the last three are terminal. Values are those of the contract."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True)
class FileRecord(Record):
    """A file or folder: `sha256` of an uploaded file, or `uri` of one under an allowed folder."""

    sha256: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True)
class OptimizationRecord(Record):
    """An optimization as it was accepted; never changes.

    `labels` are those of an artifact's manifest, as JSON. 0 or empty in `keep_macs`, `input_px`, `recipes`, `engines`,
    `mean` and `std`: the search decides. `created_by` is the principal that asked for it, or "".
    """

    optimization: str
    request_id: str
    fingerprint: str
    model: str
    checkpoint: FileRecord
    data: FileRecord
    architecture: str
    labels: tuple[dict[str, Any], ...]
    budget_minutes: float
    margin: float
    allow_unproved: bool
    promote: bool
    keep_macs: float
    seed: int
    create_time: float
    input_px: int = 0
    recall_margin: float = 0.05
    importance: str = "taylor"
    scope: str = "uniform"
    recipes: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    review_risk: float = 0.05
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    quantization_aware: bool = True
    min_assessed_tiles: int = 1
    mixed_usual_in: tuple[str, ...] = ()
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class RequestRecord(Record):
    """Which optimization a request id made, and the fingerprint of what was asked for."""

    optimization: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class ProgressRecord(Record):
    """How far an optimization is; replaced as it goes on. `start_time` is of its first run, `elapsed_s` of all."""

    stage: str
    message: str
    fraction: float
    start_time: float
    time: float
    elapsed_s: float = 0.0
    remaining_s: float = 0.0


@dataclass(frozen=True, slots=True)
class TrialsRecord(Record):
    """Every trial of the search, in the order in which they changed last; replaced as it goes on."""

    trials: tuple[TrialRow, ...] = ()


@dataclass(frozen=True, slots=True)
class StageRecord(Record):
    """A finished stage of the search: its files by name, each with the SHA-256 under which it lies beside this."""

    files: dict[str, str]


@dataclass(frozen=True, slots=True)
class CancelRecord(Record):
    """Somebody asked for cancellation."""

    time: float


@dataclass(frozen=True, slots=True)
class FailureRecord(Record):
    """An error as data; `kind` is its class in `gramserve.errors`."""

    kind: str
    reason: str
    message: str
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def of(cls, error: GramserveError) -> FailureRecord:
        """What `error` says; of a class that the tree does not draw, its nearest parent there."""
        kind = next(k.__name__ for k in type(error).__mro__ if getattr(errors, k.__name__, None) is k)
        violations = error.violations if isinstance(error, InvalidInput) else ()
        return cls(kind, error.reason.value, error.message, error.metadata, violations)

    def error(self) -> GramserveError:
        """The error again; what another release does not know becomes the plainest one."""
        reason = Reason.__members__.get(self.reason, Reason.INTERNAL)
        kind = getattr(errors, self.kind, GramserveError)
        if kind is InvalidInput:
            violations = [(name, what) for name, what in self.violations]
            return InvalidInput(reason, self.message, violations=violations, metadata=self.metadata)
        if not (isinstance(kind, type) and issubclass(kind, GramserveError)):
            kind = GramserveError
        return kind(reason, self.message, metadata=self.metadata)


@dataclass(frozen=True, slots=True)
class EndRecord(Record):
    """The one end of an optimization: SUCCEEDED with the published `version`, FAILED with `failure`, or CANCELLED."""

    state: State
    time: float
    version: int = 0
    digest: str = ""
    failure: FailureRecord | None = None
    has_report: bool = False


@dataclass(frozen=True, slots=True)
class JobRecord(Record):
    """What a job process is told: local paths and the numbers of the request."""

    checkpoint: str
    data: str
    architecture: str
    labels: tuple[dict[str, Any], ...]
    model: str
    budget_minutes: float
    margin: float
    allow_unproved: bool
    keep_macs: float
    seed: int
    cores: int
    nice: int
    input_px: int = 0
    recall_margin: float = 0.05
    importance: str = "taylor"
    scope: str = "uniform"
    recipes: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    review_risk: float = 0.05
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    quantization_aware: bool = True
    min_assessed_tiles: int = 1
    mixed_usual_in: tuple[str, ...] = ()
