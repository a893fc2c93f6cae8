"""Optimizations in the store: what was asked for, how far it is and how it ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from gramserve.errors import AlreadyExists, NotFound, Reason
from gramserve.store.objects import ObjectMissing, ObjectStore
from gramserve.store.recent import Recent
from optimizer_svc.records import (
    CancelRecord,
    EndRecord,
    OptimizationRecord,
    ProgressRecord,
    RequestRecord,
    TrialsRecord,
)
from optimizer_svc.spec import TrialRow
from optimizer_svc.stages import Stages, forget

# No laboratory's id begins with an underscore: neither its uploads nor its requests can be met here.
SCOPE = "_optimizer"
_ROOT = "optimizations"
_RECENT = 10_000


class Optimizations:
    """Reads and writes optimizations/{id}/; the first writer of optimization.json and of outcome.json wins."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._records: Recent[str, OptimizationRecord] = Recent(_RECENT)
        self._ends: Recent[str, EndRecord] = Recent(_RECENT)

    async def create(self, record: OptimizationRecord) -> OptimizationRecord:
        """Makes the optimization, or finds the one that the same request made; returns what is in the store.

        Raises AlreadyExists: REQUEST_ID_REUSED (another payload under the request id), BATCH_ID_TAKEN.
        """
        if record.request_id:
            record = await self._claim(record)
        path = f"{_ROOT}/{record.optimization}/optimization.json"
        if await self._objects.create(path, record.to_json()):
            return self._records.add(record.optimization, record)
        first = await self.get(record.optimization)
        if not record.request_id or first.request_id != record.request_id:
            raise AlreadyExists(Reason.BATCH_ID_TAKEN, "another optimization has this id")
        return first

    async def _claim(self, record: OptimizationRecord) -> OptimizationRecord:
        """The record under the id that the first create with its request id chose."""
        request = RequestRecord(record.optimization, record.fingerprint)
        path = f"requests/{SCOPE}/{record.request_id}"
        if await self._objects.create(path, request.to_json()):
            return record
        first = RequestRecord.from_json(await self._objects.get(path))
        if first.fingerprint != record.fingerprint:
            raise AlreadyExists(Reason.REQUEST_ID_REUSED, "the request_id was used before with another payload")
        return replace(record, optimization=first.optimization)

    async def get(self, optimization: str) -> OptimizationRecord:
        """The optimization as it was accepted; raises NotFound (UNKNOWN_OPTIMIZATION)."""
        known = self._records.get(optimization)
        if known is not None:
            return known
        try:
            data = await self._objects.get(f"{_ROOT}/{optimization}/optimization.json")
        except ObjectMissing:
            raise NotFound(Reason.UNKNOWN_OPTIMIZATION, "there is no such optimization") from None
        return self._records.add(optimization, OptimizationRecord.from_json(data))

    async def newest_first(self) -> list[OptimizationRecord]:
        """All optimizations, the newest first."""
        records = []
        for optimization in await self._objects.folders(_ROOT):
            try:
                records.append(await self.get(optimization))
            except NotFound:  # claimed by a create that never got further
                continue
        return sorted(records, key=order)

    async def end(self, optimization: str) -> EndRecord | None:
        """How it ended, or None."""
        return (await self.standing(optimization))[0]

    async def standing(self, optimization: str) -> tuple[EndRecord | None, ProgressRecord | None]:
        """How it ended and how far it is, in one look."""
        end = self._ends.get(optimization)
        names = ("outcome.json", "progress.json")
        ended, progress = await self._objects.get_many([f"{_ROOT}/{optimization}/{name}" for name in names])
        if end is None and ended is not None:
            end = self._ends.add(optimization, EndRecord.from_json(ended))
        return end, ProgressRecord.from_json(progress) if progress is not None else None

    async def finish(self, optimization: str, end: EndRecord) -> EndRecord:
        """Ends it and returns the end that is in the store: that of whoever was first."""
        path = f"{_ROOT}/{optimization}/outcome.json"
        if not await self._objects.create(path, end.to_json()):
            end = EndRecord.from_json(await self._objects.get(path))
        return self._ends.add(optimization, end)

    async def put_progress(self, optimization: str, progress: ProgressRecord) -> None:
        """Says how far it is."""
        await self._objects.put(f"{_ROOT}/{optimization}/progress.json", progress.to_json())

    async def trials(self, optimization: str) -> tuple[TrialRow, ...]:
        """All its trials so far, in the order in which they changed last."""
        (data,) = await self._objects.get_many([f"{_ROOT}/{optimization}/trials.json"])
        return TrialsRecord.from_json(data).trials if data is not None else ()

    async def put_trials(self, optimization: str, trials: Iterable[TrialRow]) -> None:
        """Keeps its trials, all of them; they stay when it has ended."""
        await self._objects.put(f"{_ROOT}/{optimization}/trials.json", TrialsRecord(tuple(trials)).to_json())

    def stages(self, optimization: str, root: Path) -> Stages:
        """Its finished stages, copied from and to the folder `root`."""
        return Stages(self._objects, _stages(optimization), root)

    async def forget_stages(self, optimization: str) -> None:
        """Removes its stages: it has ended."""
        await forget(self._objects, _stages(optimization))

    async def ask_to_cancel(self, optimization: str, time: float) -> None:
        """Keeps the wish to cancel it."""
        await self._objects.create(f"{_ROOT}/{optimization}/cancel.json", CancelRecord(time).to_json())

    async def cancel_asked(self, optimization: str) -> bool:
        """Whether somebody asked to cancel it."""
        return await self._objects.size(f"{_ROOT}/{optimization}/cancel.json") is not None

    async def put_report(self, optimization: str, files: Mapping[str, bytes]) -> None:
        """Keeps report.json and report.html."""
        for name, data in files.items():
            await self._objects.put(f"{_ROOT}/{optimization}/{name}", data)

    def report_uri(self, optimization: str) -> str:
        """Where report.json and report.html lie."""
        return self._objects.uri(f"{_ROOT}/{optimization}")


def _stages(optimization: str) -> str:
    return f"{_ROOT}/{optimization}/stages"


def order(record: OptimizationRecord) -> tuple[float, str]:
    """The key of newest first."""
    return (-record.create_time, record.optimization)
