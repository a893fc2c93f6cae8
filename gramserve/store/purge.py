"""Deleting what is older than it may be, so that it can break off anywhere and go on later."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta

from gramserve.access.principal import SYSTEM
from gramserve.store import layout
from gramserve.store.audit import AuditLog
from gramserve.store.audit_days import AuditDays, Start, next_day
from gramserve.store.audit_record import Action, line_hash, parse_line
from gramserve.store.batches import BatchStore
from gramserve.store.codec import RecordCorrupt, field
from gramserve.store.condemned import condemn, execute, says_deleting
from gramserve.store.objects import ObjectMissing, ObjectStore
from gramserve.store.paths import ObjectInfo
from gramserve.store.records import FinalRecord, TombstoneRecord
from gramserve.store.retention import DAY_S, RetentionDays

CONDEMNED_DAYS = 1.0
"""How long an image that nothing refers to is condemned before it goes: for clients that were told it is known."""

BROKEN_OFF_DAYS = 1 / 24
"""How long after a deletion began it is taken to have broken off: another purge goes on with it then."""

_REFERENCE = re.compile(rb'"sha256":"([0-9a-f]{64})"')
_KEPT_OF_OPTIMIZATION = {"optimization.json", "outcome.json", "cancel.json"}


class Purger:
    """Purges `objects` in the name of `actor`; every step may be repeated, also by several at once.

    A deed is recorded in `audit` before it is done. With `dry_run` everything is counted and nothing is changed.
    `clock` gives Unix seconds.
    """

    def __init__(
        self,
        objects: ObjectStore,
        keep: RetentionDays,
        audit: AuditLog,
        *,
        clock: Callable[[], float],
        actor: str = SYSTEM,
        dry_run: bool = False,
    ) -> None:
        self._objects = objects
        self._batches = BatchStore(objects)
        self._keep = keep
        self._audit = audit
        self._clock = clock
        self._actor = actor
        self._dry_run = dry_run
        self.damaged = 0
        """Batches and optimizations that the last purge passed over, since a record of theirs cannot be read."""

    async def purge(self) -> dict[str, int]:
        """How many of each kind were purged, or would be; raises what the store raises.

        What stands behind a damaged record stays, and is counted by `damaged`: it may be restored from a backup.
        """
        self.damaged = 0
        return {
            "batches": await self._purge_batches(),
            "images": await self._purge_images(),
            "uploads": await self._purge_old("uploads", self._keep.uploads),
            "reuse": await self._purge_old("reuse", self._keep.reuse),
            "optimizations": await self._purge_optimizations(),
            "audit": await self._purge_audit(),
        }

    # Batches.

    async def _purge_batches(self) -> int:
        count = 0
        for laboratory in await self._objects.folders("batches"):
            for batch in await self._objects.folders(f"batches/{laboratory}"):
                with self._unless_damaged():
                    if (tombstone := await self._tombstone(laboratory, batch)) is not None:
                        if not self._dry_run:
                            await self._remove_batch(laboratory, batch, tombstone.round)
                    elif self._keep.batches and await self._purge_batch(laboratory, batch):
                        count += 1
        return count

    async def _purge_batch(self, laboratory: str, batch: str) -> bool:
        """Purges the batch if it ended long enough ago. Its tombstone is the commit point: the rest may follow."""
        record = await self._batches.get_batch(laboratory, batch)
        number = await self._batches.current_round(laboratory, batch)
        final: FinalRecord | None = await self._batches.final(laboratory, batch, number)
        if record is None or final is None or final.end_time > self._before(self._keep.batches):
            return False
        if self._dry_run:
            return True
        tombstone = TombstoneRecord(
            purged_by=self._actor,
            time=self._clock(),
            round=number,
            create_time=record.create_time,
            end_time=final.end_time,
            slide_count=record.slide_count,
            model_version=record.model_version,
            model_digest=record.model_digest,
        )
        name = f"laboratories/{laboratory}/slideBatches/{batch}"
        await self._audit.record(
            Action.BATCH_PURGE, name, artifact=record.model_digest, actor=self._actor, slides=record.slide_count
        )
        await self._objects.create(layout.tombstone_path(laboratory, batch), tombstone.to_json())
        return await self._remove_batch(laboratory, batch, number)

    async def _remove_batch(self, laboratory: str, batch: str, number: int) -> bool:
        """Removes a batch that has a tombstone; False when a retry was faster: then the tombstone goes.

        Its batch.json goes first: once that is gone nothing keeps the rest any more.
        """
        record = layout.batch_path(laboratory, batch)
        if await self._objects.size(record) is not None:
            if await self._batches.current_round(laboratory, batch) > number:
                await self._objects.delete(layout.tombstone_path(laboratory, batch))
                return False
            await self._objects.delete(record)
        await self._objects.delete_folder(layout.batch_folder(laboratory, batch))
        return True

    async def _tombstone(self, laboratory: str, batch: str) -> TombstoneRecord | None:
        with suppress(ObjectMissing):
            return TombstoneRecord.from_json(await self._objects.get(layout.tombstone_path(laboratory, batch)))
        return None

    # Images.

    async def _purge_images(self) -> int:
        if not self._keep.images:
            return 0
        return sum([await self._purge_images_of(laboratory) for laboratory in await self._objects.folders("slides")])

    async def _purge_images_of(self, laboratory: str) -> int:
        folder, before = f"slides/{laboratory}", self._before(self._keep.images)
        free = {
            info.path.rpartition("/")[2].encode()
            async for info in self._objects.list(folder)
            if info.modified_s < before
        }
        marks = [info async for info in self._objects.list(layout.condemned_path(folder))]
        condemned = {info.path.rpartition("/")[2].encode(): info for info in marks}
        # The marks are older than what is read now: what was referred to since they were made is seen here.
        async for info in self._objects.list(f"batches/{laboratory}"):
            if not free and not condemned:
                return 0
            if "/manifest/" in info.path:
                free -= await self._referred_to(info.path)
        due = {digest for digest in free & condemned.keys() if self._is_due(condemned[digest])}
        if self._dry_run:
            return len(due)
        for digest in condemned.keys() - free:
            await self._objects.delete(layout.condemned_path(f"{folder}/{digest.decode()}"))
        for digest in free - condemned.keys():
            await condemn(self._objects, f"{folder}/{digest.decode()}")
        if not due:
            return 0
        await self._audit.record(
            Action.IMAGES_PURGE, f"laboratories/{laboratory}/images", actor=self._actor, images=len(due)
        )
        going = [(f"{folder}/{digest.decode()}", says_deleting(condemned[digest])) for digest in sorted(due)]
        return sum([await execute(self._objects, path, again=again) for path, again in going])

    def _is_due(self, mark: ObjectInfo) -> bool:
        """Whether the image of a mark was condemned for long enough, or its deletion broke off."""
        return mark.modified_s < self._before(BROKEN_OFF_DAYS if says_deleting(mark) else CONDEMNED_DAYS)

    async def _referred_to(self, chunk: str) -> set[bytes]:
        with suppress(ObjectMissing):  # its batch was purged meanwhile
            return set(_REFERENCE.findall(await self._objects.get(chunk)))
        return set()

    # What stands for itself.

    async def _purge_old(self, folder: str, days: float) -> int:
        if not days:
            return 0
        before = self._before(days)
        old = [info.path async for info in self._objects.list(folder) if info.modified_s < before]
        if not self._dry_run:
            for path in old:
                await self._objects.delete(path)
        return len(old)

    async def _purge_optimizations(self) -> int:
        count = 0
        for optimization in await self._objects.folders("optimizations") if self._keep.optimizations else []:
            with self._unless_damaged():
                count += await self._purge_optimization(f"optimizations/{optimization}")
        return count

    async def _purge_optimization(self, folder: str) -> bool:
        (outcome,) = await self._objects.get_many([f"{folder}/outcome.json"])
        if outcome is None or float(field(outcome, "time")) > self._before(self._keep.optimizations):
            return False
        paths = [info.path async for info in self._objects.list(folder)]
        paths = [path for path in paths if path.removeprefix(f"{folder}/") not in _KEPT_OF_OPTIMIZATION]
        if paths and not self._dry_run:
            await self._audit.record(Action.OPTIMIZATION_PURGE, folder, actor=self._actor, files=len(paths))
            for path in paths:
                await self._objects.delete(path)
        return bool(paths)

    # The audit record itself.

    async def _purge_audit(self) -> int:
        days = AuditDays(self._objects)
        start = await days.known_start()
        if not self._keep.audit or start is None:
            return 0
        last = datetime.fromtimestamp(self._before(self._keep.audit), UTC).date() - timedelta(days=1)
        old = [day for day in await days.sealed() if day <= last]
        if self._dry_run or not old:
            return len(old)
        line = await days.last_of(old[-1])
        record = parse_line(line)
        following = next_day(record)
        if following is not None and following > date.fromisoformat(start.day):
            moved = Start(following.isoformat(), record.number, line_hash(line))
            await self._audit.record(
                Action.AUDIT_PURGE,
                f"audit/{old[-1].isoformat()}",
                actor=self._actor,
                number=moved.number,
                hash=moved.hash,
            )
            await days.move_start(moved)
        for day in old:
            await days.remove(day)
        return len(old)

    @contextmanager
    def _unless_damaged(self) -> Iterator[None]:
        try:
            yield
        except RecordCorrupt:
            self.damaged += 1

    def _before(self, days: float) -> float:
        """The time before which something is older than `days`, Unix seconds."""
        return self._clock() - days * DAY_S
