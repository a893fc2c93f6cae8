"""How an artifact came to be, for its manifest."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from gramserve.store.manifest import ArtifactDraft, Material, Provenance
from optimizer_svc.environment import packages
from optimizer_svc.records import OptimizationRecord

BUILDER = "gramserve.optimizer"
# What names the request or its files is no parameter: materials are told by their digests, never by a place.
_NO_PARAMETERS = {
    "optimization",
    "request_id",
    "fingerprint",
    "checkpoint",
    "data",
    "labels",
    "create_time",
    "created_by",
}


def provenance(record: OptimizationRecord, draft: ArtifactDraft, *, began_s: float, ended_s: float) -> Provenance:
    """The provenance of `draft`, which the optimization `record` made; times are Unix seconds."""
    fingerprints = draft.split.get("fingerprints", {})
    data = {str(name): str(fingerprint) for name, fingerprint in fingerprints.items()}
    if record.data.sha256:
        data["sha256"] = record.data.sha256
    return Provenance(
        builder=BUILDER,
        builder_version=packages().get("gramserve", ""),
        invocation=f"optimizations/{record.optimization}",
        requested_by=record.created_by,
        parameters={name: value for name, value in asdict(record).items() if name not in _NO_PARAMETERS},
        materials=(
            Material(name="checkpoint", digest={"sha256": draft.source.checkpoint_sha256}),
            Material(name="data", digest=data),
        ),
        started_on=datetime.fromtimestamp(began_s, UTC),
        finished_on=datetime.fromtimestamp(ended_s, UTC),
    )
