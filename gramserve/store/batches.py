"""Batches in the store: what was accepted, what came out, what is still open. docs/store.md has the layout.

Every record is written once, create-if-absent: whoever comes second gets the record of whoever came first.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from gramserve.errors import AlreadyExists, NotFound, Reason
from gramserve.store import layout
from gramserve.store.codec import Record, RecordCorrupt, field
from gramserve.store.objects import ObjectMissing, ObjectStore
from gramserve.store.open_rounds import OpenRounds
from gramserve.store.recent import Recent
from gramserve.store.records import (
    BatchRecord,
    FinalRecord,
    OutcomeRecord,
    RequestRecord,
    RoundRecord,
    SlideRecord,
    StopRecord,
)

R = TypeVar("R", bound=Record)
T = TypeVar("T")

CHUNK_SLIDES = 1000
_READ_TOGETHER = 256
_RECENT_BATCHES = 128
_RECENT_CHUNKS = 4


class BatchStore:
    """Reads and writes batches; `laboratory` and `batch` are ids, not resource names. One per event loop."""

    def __init__(self, objects: ObjectStore) -> None:
        self.objects = objects
        self.open_rounds = OpenRounds(objects)
        self._batches: Recent[tuple[str, str], BatchRecord] = Recent(_RECENT_BATCHES)
        self._chunks: Recent[tuple[str, str, int], list[bytes]] = Recent(_RECENT_CHUNKS)
        self._create_times: dict[str, dict[str, float]] = {}

    # Accepting a batch: request, manifest, batch.json, in this order.

    async def create_request(self, laboratory: str, request_id: str, record: RequestRecord) -> RequestRecord:
        """Ties `request_id` to a batch; the record that is kept, which may be that of an earlier request (I3)."""
        return await self._create(layout.request_path(laboratory, request_id), record)

    async def write_manifest(self, laboratory: str, batch: str, slides: Sequence[SlideRecord]) -> None:
        """Writes the slides (`index` 0, 1, 2, ...) durably; the same slides may be written again.

        Beside it the marker of an open batch: one that is committed without it would not be found by `unfinished`.
        Raises AlreadyExists (BATCH_ID_TAKEN) when the batch id has a manifest with other slides: of two requests that
        race for one id, the first chunk decides whose it is.
        """
        if any(slide.index != position for position, slide in enumerate(slides)):
            raise ValueError("slides must be numbered 0, 1, 2, ... in order")
        await asyncio.gather(self.open_rounds.mark(laboratory, batch, 0), self._write_chunks(laboratory, batch, slides))

    async def _write_chunks(self, laboratory: str, batch: str, slides: Sequence[SlideRecord]) -> None:
        for chunk in range(-(-len(slides) // CHUNK_SLIDES)):
            part = slides[chunk * CHUNK_SLIDES : (chunk + 1) * CHUNK_SLIDES]
            data = b"".join(slide.to_json() + b"\n" for slide in part)
            path = layout.chunk_path(laboratory, batch, chunk)
            if not await self.objects.create(path, data) and await self.objects.get(path) != data:
                raise AlreadyExists(Reason.BATCH_ID_TAKEN, "The batch id belongs to another request.")

    async def create_batch(self, record: BatchRecord) -> BatchRecord:
        """Commits a batch whose manifest is written; the record that is kept, which may be an earlier one."""
        kept = await self._create(layout.batch_path(record.laboratory, record.batch), record)
        return self._batches.add((record.laboratory, record.batch), kept)

    async def forget(self, laboratory: str, batch: str) -> None:
        """Removes what was prepared for a batch that nobody will ever commit."""
        await self.objects.delete_folder(layout.batch_folder(laboratory, batch))
        await self.open_rounds.unmark(laboratory, batch, 0)

    # Reading a batch.

    async def get_batch(self, laboratory: str, batch: str) -> BatchRecord | None:
        """The batch as it was accepted; None when there is none."""
        known = self._batches.get((laboratory, batch))
        if known is None:
            known = await self._get(layout.batch_path(laboratory, batch), BatchRecord)
            if known is not None:
                self._batches.add((laboratory, batch), known)
        return known

    async def is_purged(self, laboratory: str, batch: str) -> bool:
        """Whether the batch was deleted at the end of its retention; it may still be in the memory of this process."""
        return await self.objects.size(layout.tombstone_path(laboratory, batch)) is not None

    async def list_batches(
        self,
        laboratory: str,
        *,
        limit: int,
        after: tuple[float, str] | None = None,
        damaged: set[str] | None = None,
    ) -> list[BatchRecord]:
        """At most `limit` batches of the laboratory, newest first, behind (create_time, batch id) `after`.

        A batch whose record cannot be read is left out and put into `damaged`; without that, RecordCorrupt is raised.
        """
        times = self._create_times.setdefault(laboratory, {})
        names = set(await self.objects.folders(f"batches/{laboratory}"))
        for gone in times.keys() - names:
            del times[gone]
        new = [name for name in sorted(names) if name not in times]
        for some in _together(new):
            found = await self.objects.get_many([layout.batch_path(laboratory, name) for name in some])
            for name, data in zip(some, found, strict=True):
                if data is not None:  # else a manifest whose batch is not (or not yet) committed
                    with _told(damaged, name):
                        times[name] = BatchRecord.from_json(data).create_time
        order = sorted(((-time, name) for name, time in times.items()))
        if after is not None:
            order = [key for key in order if key > (-after[0], after[1])]
        records: list[BatchRecord] = []
        for following in _together([name for _, name in order]):
            tombstones = await self.objects.get_many([layout.tombstone_path(laboratory, name) for name in following])
            for name, tombstone in zip(following, tombstones, strict=True):
                with _told(damaged, name):
                    record = await self.get_batch(laboratory, name) if tombstone is None else None
                    if record is not None:
                        records.append(record)
                if len(records) == limit:
                    return records
        return records

    async def slide(self, laboratory: str, batch: str, index: int) -> SlideRecord:
        """One slide; raises NotFound when the batch has no such slide."""
        lines = await self._chunk(laboratory, batch, index // CHUNK_SLIDES)
        if index % CHUNK_SLIDES >= len(lines):
            raise NotFound(Reason.REFERENCE_NOT_FOUND, "The batch has no such slide.")
        return SlideRecord.from_json(lines[index % CHUNK_SLIDES])

    async def slide_ids(self, laboratory: str, batch: str, indices: Iterable[int]) -> dict[int, str]:
        """The slide_id of each of the slides, at a third of the cost of reading them; raises NotFound."""
        found: dict[int, str] = {}
        for index in indices:
            if index not in found:
                lines = await self._chunk(laboratory, batch, index // CHUNK_SLIDES)
                if index % CHUNK_SLIDES >= len(lines):
                    raise NotFound(Reason.REFERENCE_NOT_FOUND, "The batch has no such slide.")
                found[index] = str(field(lines[index % CHUNK_SLIDES], "slide_id"))
        return found

    async def slides(
        self, laboratory: str, batch: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[SlideRecord]:
        """The slides from `start` to before `stop` (None: all) in order, one chunk in memory; raises NotFound."""
        end = await self._slide_count(laboratory, batch)
        for index in range(start, end if stop is None else min(stop, end)):
            yield await self.slide(laboratory, batch, index)

    # Outcomes.

    async def record_outcome(self, laboratory: str, batch: str, outcome: OutcomeRecord) -> bool:
        """Writes the one outcome of a slide in its round; False when there is one already (I2)."""
        path = layout.outcome_path(laboratory, batch, outcome.round, outcome.index)
        return await self.objects.create(path, outcome.to_json())

    async def record_outcomes(self, outcomes: Sequence[tuple[str, str, OutcomeRecord]]) -> Sequence[bool]:
        """`record_outcome` for each (laboratory, batch, outcome), durable together; see `ObjectStore.create_many`."""
        return await self.objects.create_many(
            [
                (layout.outcome_path(laboratory, batch, outcome.round, outcome.index), outcome.to_json())
                for laboratory, batch, outcome in outcomes
            ]
        )

    async def keep_for_reuse(self, outcomes: Sequence[tuple[str, str, OutcomeRecord, str]]) -> None:
        """Keeps each (laboratory, batch, outcome, key) that was recorded under its `gramserve.store.reuse` key, too."""
        await self.objects.name_again(
            [
                (
                    layout.outcome_path(laboratory, batch, outcome.round, outcome.index),
                    layout.reuse_path(laboratory, key),
                )
                for laboratory, batch, outcome, key in outcomes
            ]
        )

    async def outcome(self, laboratory: str, batch: str, index: int) -> OutcomeRecord | None:
        """The outcome of a slide in the latest round that has one."""
        for number in range(await self.current_round(laboratory, batch), -1, -1):
            found = await self._get(layout.outcome_path(laboratory, batch, number, index), OutcomeRecord)
            if found is not None:
                return found
        return None

    async def outcomes(
        self, laboratory: str, batch: str, start: int = 0, stop: int | None = None
    ) -> AsyncIterator[OutcomeRecord]:
        """The outcomes of the slides from `start` to before `stop` by index, each of the latest round that has one."""
        latest: dict[int, int] = {}
        for number in range(await self.current_round(laboratory, batch) + 1):
            for index in await self.recorded(laboratory, batch, number, start, stop):
                latest[index] = number
        for some in _together(sorted(latest)):
            paths = [layout.outcome_path(laboratory, batch, latest[index], index) for index in some]
            for data in await self.objects.get_many(paths):
                if data is not None:
                    yield OutcomeRecord.from_json(data)

    async def recorded(
        self, laboratory: str, batch: str, number: int, start: int = 0, stop: int | None = None
    ) -> list[int]:
        """The slides with an outcome in round `number`, ascending: by name alone, nothing is read."""
        prefix = layout.outcome_folder(laboratory, batch, number)
        after = layout.outcome_path(laboratory, batch, number, start - 1) if start > 0 else ""
        found: list[int] = []
        async for info in self.objects.list(prefix, after=after):
            index = _number(info.path, ".json")
            if stop is not None and index >= stop:
                break
            found.append(index)
        return found

    # Stops, rounds and the end.

    async def stop(self, laboratory: str, batch: str, number: int, record: StopRecord) -> StopRecord:
        """Stops round `number` for good; the record that is kept, which may be an earlier one."""
        return await self._create(layout.stop_path(laboratory, batch, number), record)

    async def get_stop(self, laboratory: str, batch: str, number: int) -> StopRecord | None:
        """Why round `number` stops early; None when it does not."""
        return await self._get(layout.stop_path(laboratory, batch, number), StopRecord)

    async def create_round(self, laboratory: str, batch: str, record: RoundRecord) -> RoundRecord:
        """Begins a retry; the record that is kept, which may be that of another request for the same round."""
        path = layout.round_path(laboratory, batch, record.round)
        if (known := await self._get(path, RoundRecord)) is not None:
            return known
        await self.open_rounds.mark(laboratory, batch, record.round)
        return await self._create(path, record)

    async def withdraw_round(self, laboratory: str, batch: str, number: int) -> None:
        """Takes back the retry `number` of a batch that turned out to be purged."""
        await self.objects.delete(layout.round_path(laboratory, batch, number))
        await self.open_rounds.unmark(laboratory, batch, number)

    async def get_rounds(self, laboratory: str, batch: str) -> list[RoundRecord]:
        """The retries of a batch, from round 1 on."""
        rounds = []
        for number in range(1, await self.current_round(laboratory, batch) + 1):
            record = await self._get(layout.round_path(laboratory, batch, number), RoundRecord)
            if record is not None:
                rounds.append(record)
        return rounds

    async def current_round(self, laboratory: str, batch: str) -> int:
        """The latest round: 0 until a retry."""
        latest = 0
        async for info in self.objects.list(f"{layout.batch_folder(laboratory, batch)}/rounds"):
            latest = max(latest, _number(info.path, ".json"))
        return latest

    async def finalize(self, laboratory: str, batch: str, record: FinalRecord) -> FinalRecord:
        """Ends a round; the record that is kept, which may be that of another gateway."""
        kept = await self._create(layout.final_path(laboratory, batch, record.round), record)
        await self.open_rounds.unmark(laboratory, batch, record.round)
        return kept

    async def final(self, laboratory: str, batch: str, number: int) -> FinalRecord | None:
        """The end of round `number`; None while it is open."""
        return await self._get(layout.final_path(laboratory, batch, number), FinalRecord)

    async def unfinished(self) -> AsyncIterator[tuple[str, str]]:
        """(laboratory, batch) of every committed batch whose current round has no end yet: what Redis must know."""
        async for laboratory, batch, _ in self.open_rounds.unfinished():
            yield laboratory, batch

    # Output files.

    def output_path(self, laboratory: str, batch: str, number: int, name: str) -> str:
        """The path of an output file of round `number`, such as "results-00001.jsonl"."""
        return f"{layout.output_folder(laboratory, batch, number)}/{name}"

    def output_uri(self, laboratory: str, batch: str, number: int) -> str:
        """The folder of the output files of round `number`, for other programs."""
        return self.objects.uri(layout.output_folder(laboratory, batch, number))

    # Within.

    async def _create(self, path: str, record: R) -> R:
        if await self.objects.create(path, record.to_json()):
            return record
        return type(record).from_json(await self.objects.get(path))

    async def _get(self, path: str, kind: type[R]) -> R | None:
        try:
            return kind.from_json(await self.objects.get(path))
        except ObjectMissing:
            return None

    async def _chunk(self, laboratory: str, batch: str, chunk: int) -> list[bytes]:
        known = self._chunks.get((laboratory, batch, chunk))
        if known is None:
            data = await self.objects.get(layout.chunk_path(laboratory, batch, chunk))
            # Lines, not records: a worker needs few of a chunk, and parsing all would cost 20 ms.
            known = self._chunks.add((laboratory, batch, chunk), data.splitlines())
        return known

    async def _slide_count(self, laboratory: str, batch: str) -> int:
        record = await self.get_batch(laboratory, batch)
        if record is None:
            raise NotFound(Reason.UNKNOWN_BATCH, "There is no such batch.")
        return record.slide_count


@contextmanager
def _told(damaged: set[str] | None, name: str) -> Iterator[None]:
    """Puts `name` into `damaged`, where there is that, when its record turns out to be unreadable."""
    try:
        yield
    except RecordCorrupt:
        if damaged is None:
            raise
        damaged.add(name)


def _number(path: str, suffix: str) -> int:
    name = path.rpartition("/")[2].removesuffix(suffix)
    if not name.isdecimal():
        raise RecordCorrupt("name")
    return int(name)


def _together(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _READ_TOGETHER):
        yield items[start : start + _READ_TOGETHER]
