"""What clients ask for, checked and turned into the record of an optimization."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from typing import Any

import yaml

from gramserve.errors import InvalidInput, Reason
from gramserve.v1 import model_pb2, optimization_pb2, optimizer_service_pb2
from optimizer_svc import names
from optimizer_svc.asked import read_settings
from optimizer_svc.labels import parse_labels
from optimizer_svc.names import Violations
from optimizer_svc.records import FileRecord, OptimizationRecord

_MAX_URI = 4096
_ARCHITECTURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def read_request(
    request: optimizer_service_pb2.CreateOptimizationRequest, *, new_id: str, now_s: float, max_budget_minutes: float
) -> OptimizationRecord:
    """The record of a create; `new_id` names it unless the client does.

    Raises InvalidInput: INVALID_LABELS when only the labels are wrong, else INVALID_FIELD naming every wrong field.
    """
    asked, violations = request.optimization, Violations()
    wished = names.check_id(request.optimization_id, violations)
    record = OptimizationRecord(
        optimization=wished or new_id,
        request_id=names.check_request_id(request.request_id, violations),
        fingerprint="",
        model=names.check_model(asked.model, violations),
        checkpoint=_source(asked.checkpoint, "optimization.checkpoint", violations),
        data=_source(asked.data, "optimization.data", violations),
        architecture=asked.architecture,
        labels=(),
        create_time=now_s,
        **read_settings(asked.settings, violations, max_budget_minutes=max_budget_minutes),
    )
    if _ARCHITECTURE.fullmatch(asked.architecture) is None:
        violations.append(("optimization.architecture", "must be the name of a timm architecture"))
    if violations:
        raise names.invalid(violations)
    record = replace(record, labels=_labels(asked))
    return replace(record, fingerprint=_fingerprint(record, wished))


def _source(source: optimization_pb2.FileSource, field: str, violations: Violations) -> FileRecord:
    kind = source.WhichOneof("source")
    if kind is None:
        violations.append((field, "must have sha256 or uri"))
    elif kind == "sha256" and _SHA256.fullmatch(source.sha256) is None:
        violations.append((f"{field}.sha256", "must be 64 lower-case hexadecimal digits"))
    elif kind == "uri" and not (1 <= len(source.uri) <= _MAX_URI and source.uri.isprintable()):
        violations.append((f"{field}.uri", f"must be 1 to {_MAX_URI} printable characters"))
    return FileRecord(sha256=source.sha256, uri=source.uri)


def _labels(asked: optimization_pb2.Optimization) -> tuple[dict[str, Any], ...]:
    """The labels by the rules of a labels file, which they are in another form."""
    try:
        labels = parse_labels(yaml.safe_dump({"labels": [_row(label) for label in asked.labels]}))
    except InvalidInput as error:
        violations = [(f"optimization.{field}", what) for field, what in error.violations]
        raise names.invalid(violations or [("optimization.labels", error.message)], Reason.INVALID_LABELS) from None
    return tuple(label.model_dump(mode="json", exclude_none=True) for label in labels)


def _fingerprint(record: OptimizationRecord, wished: str) -> str:
    """Equal for two creates that ask for the same."""
    asked = replace(record, optimization=wished, request_id="", create_time=0.0)
    return hashlib.sha256(asked.to_json()).hexdigest()


def _row(label: model_pb2.Label) -> dict[str, str]:
    """A label as a row of a labels file; what is unspecified stays away."""
    kind = model_pb2.Label.Kind.Name(label.kind) if label.kind in model_pb2.Label.Kind.values() else "KIND_UNKNOWN"
    gram = model_pb2.Label.Gram.Name(label.gram) if label.gram in model_pb2.Label.Gram.values() else "GRAM_UNKNOWN"
    row = {
        "name": label.name,
        "kind": kind.removeprefix("KIND_").lower(),
        "gram": gram.removeprefix("GRAM_").lower(),
        "morphology": label.morphology,
        "arrangement": label.arrangement,
    }
    return {field: value for field, value in row.items() if field == "name" or value not in {"", "unspecified"}}
