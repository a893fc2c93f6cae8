"""From what a job left in its workspace to a published version, once for each optimization."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from gramserve.access.principal import SYSTEM
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
from gramserve.store.manifest import ArtifactDraft
from gramserve.store.registry import PRODUCTION, Registry
from optimizer_svc.job_process import MANIFEST_DRAFT, RESULT_FOLDER, RUN_FOLDER
from optimizer_svc.optimizations import Optimizations
from optimizer_svc.provenance import provenance
from optimizer_svc.records import EndRecord, OptimizationRecord, State

REPORT_FILES = ("report.json", "report.html")
_MARK = "optimization"
_NEWEST = 50


class Publisher:
    """Publishes, promotes where asked, and says how the optimization ended; `audit` hears of both."""

    def __init__(self, registry: Registry, optimizations: Optimizations, audit: AuditLog) -> None:
        self._registry = registry
        self._optimizations = optimizations
        self._audit = audit

    async def publish(self, record: OptimizationRecord, workspace: Path, now_s: float) -> EndRecord:
        """The end of a job whose artifact lies in `workspace`.

        A version carries the optimization that made it: a run that died after publishing is found again, not repeated.
        Raises what the store raises.
        """
        files, draft = await asyncio.to_thread(_read, workspace / RESULT_FOLDER, record.optimization)
        _, progress = await self._optimizations.standing(record.optimization)
        began_s = progress.start_time if progress is not None else record.create_time
        draft = draft.model_copy(update={"provenance": provenance(record, draft, began_s=began_s, ended_s=now_s)})
        version, digest = await self._earlier(record) or await self._registry.publish(record.model, files, draft)
        name, actor = f"models/{record.model}/versions/{version}", record.created_by or SYSTEM
        # Not before: the digest is known only now. Who dies in between comes here again.
        made = f"optimizations/{record.optimization}"
        await self._audit.record(Action.MODEL_PUBLISH, name, artifact=digest, actor=actor, optimization=made)
        if record.promote:
            await self._audit.record(Action.MODEL_PROMOTE, name, artifact=digest, actor=actor, alias=PRODUCTION)
            await self._registry.promote(record.model, version)
        has_report = await self.keep_report(record, workspace)
        return EndRecord(State.SUCCEEDED, now_s, version, digest, has_report=has_report)

    async def keep_report(self, record: OptimizationRecord, workspace: Path) -> bool:
        """Keeps the report where there is one; also of an optimization that was not accepted, it says why."""
        files = await asyncio.to_thread(_report, workspace)
        await self._optimizations.put_report(record.optimization, files)
        return bool(files)

    async def _earlier(self, record: OptimizationRecord) -> tuple[int, str] | None:
        for version in reversed((await self._registry.versions(record.model))[-_NEWEST:]):
            manifest, digest = await self._registry.manifest(record.model, version)
            if manifest.evaluation.get(_MARK) == record.optimization:
                return version, digest
        return None


def _read(folder: Path, optimization: str) -> tuple[dict[str, bytes], ArtifactDraft]:
    draft = ArtifactDraft.model_validate_json((folder / MANIFEST_DRAFT).read_bytes())
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != MANIFEST_DRAFT}
    evaluation: dict[str, Any] = {**draft.evaluation, _MARK: optimization}
    return files, draft.model_copy(update={"evaluation": evaluation})


def _report(workspace: Path) -> dict[str, bytes]:
    """The report of the artifact, or the one that the search left when it accepted nothing."""
    for folder in (workspace / RESULT_FOLDER, workspace / RUN_FOLDER):
        found = {name: (folder / name).read_bytes() for name in REPORT_FILES if (folder / name).is_file()}
        if found:
            return found
    return {}
