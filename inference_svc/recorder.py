"""Writes the outcomes of slides to the store, all that are due in one commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from gramserve.errors import GramserveError, Reason
from gramserve.store.batches import BatchStore
from gramserve.store.records import OutcomeRecord
from inference_svc.background import wait_for_either
from inference_svc.slide import Slide
from inference_svc.storage import Storage

MOST_TOGETHER = 64
GATHER_S = 0.04
"""How long an outcome waits for others while more slides run: what a commit costs is then paid by many."""

STORE_PAUSE_S = 0.5
DEADLINE_PAUSE_S = 0.1
AWAY = frozenset({Reason.STORE_UNAVAILABLE, Reason.STORE_FULL})
"""The reasons of errors that are the store's and not those of what is written."""


@dataclass(frozen=True, slots=True)
class _Due:
    slide: Slide
    outcome: OutcomeRecord
    keep: str
    done: asyncio.Future[bool | None]


class Recorder:
    """One commit is under way at a time; what becomes due meanwhile goes with the next one.

    The first of a group waits a moment for others, unless nothing else is `held` that could come. A STAT slide waits
    for nobody and has a commit of its own.
    While the store is away it is tried again for as long as the leases are ours. `clock` is monotonic seconds,
    `jitter` gives 0 to 1.
    """

    def __init__(
        self,
        store: BatchStore,
        storage: Storage,
        *,
        held: Callable[[], int],
        clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        self._store = store
        self._storage = storage
        self._clock = clock
        self._jitter = jitter
        self._held = held
        self._due: list[_Due] = []
        self._hurry = asyncio.Event()
        self._flushing: asyncio.Task[None] | None = None
        self._keeping: set[asyncio.Task[None]] = set()

    async def record(self, slide: Slide, outcome: OutcomeRecord, keep: str = "") -> bool | None:
        """Write the outcome. True: it is durable. False: another one is (I2). None: the lease was lost before.

        `keep` is the key under which it is kept for later slides of the same pixels, soon after, or never.
        """
        done: asyncio.Future[bool | None] = asyncio.get_running_loop().create_future()
        entry = _Due(slide, outcome, keep, done)
        if slide.lease.stat:
            await self._write([entry])
            if done.done():
                return done.result()
            # The store is away, or whose the lease is must be asked: then it goes the way of all.
        else:
            self._due.append(entry)
        if len(self._due) >= min(self._held(), MOST_TOGETHER):
            self._hurry.set()
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush(), name="record")
        return await done

    async def stop(self) -> None:
        """Give up what is still due; its slides were given back."""
        if self._flushing is not None:
            self._flushing.cancel()
            await asyncio.gather(self._flushing, return_exceptions=True)
        await asyncio.gather(*self._keeping, return_exceptions=True)

    async def _flush(self) -> None:
        try:
            while self._due:
                await wait_for_either(self._hurry, GATHER_S)
                pause_s = await self._once()
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            self._flushing = None

    async def _once(self) -> float:
        """Write what may be written now; returns how long to wait before the next try."""
        due = self._due[:MOST_TOGETHER]
        del self._due[:MOST_TOGETHER]
        try:
            return await self._write(due)
        except BaseException:
            for entry in due:
                entry.done.cancel()
            raise

    async def _write(self, entries: list[_Due]) -> float:
        ours = self._ours(entries)
        if not ours:
            return DEADLINE_PAUSE_S if self._due else 0.0
        try:
            created = await self._store.record_outcomes([_named(entry) for entry in ours])
        except Exception as error:
            if len(ours) > 1:  # each by itself: what is the trouble of one shall not be that of all
                return max(await asyncio.gather(*(self._write([entry]) for entry in ours)))
            if not isinstance(error, GramserveError) or error.reason not in AWAY:
                _fail(ours[0], error)
                return 0.0
            self._storage.trouble()
            self._due += ours
            return STORE_PAUSE_S * (0.5 + self._jitter())
        for entry, is_new in zip(ours, created, strict=True):
            _settle(entry, created=is_new)
        self._keep([entry for entry, is_new in zip(ours, created, strict=True) if is_new and entry.keep])
        return 0.0

    def _keep(self, entries: list[_Due]) -> None:
        """Keep them for reuse, soon: nobody waits for it."""
        if entries:
            task = asyncio.create_task(self._keep_now(entries), name="keep")
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    async def _keep_now(self, entries: list[_Due]) -> None:
        with suppress(GramserveError):  # nothing is lost but the time of running the same pixels again
            await self._store.keep_for_reuse([(*_named(entry), entry.keep) for entry in entries])

    def _ours(self, entries: list[_Due]) -> list[_Due]:
        """Those that may be written now; a renewal will tell whose the others are."""
        now_s = self._clock()
        ours: list[_Due] = []
        for entry in entries:
            if entry.slide.gone():
                _settle(entry, created=None)
            elif entry.slide.may_write(now_s):
                ours.append(entry)
            else:
                self._due.append(entry)
        return ours


def _named(entry: _Due) -> tuple[str, str, OutcomeRecord]:
    return entry.slide.laboratory, entry.slide.batch, entry.outcome


def _settle(entry: _Due, *, created: bool | None) -> None:
    if not entry.done.done():
        entry.done.set_result(created)


def _fail(entry: _Due, error: Exception) -> None:
    if not entry.done.done():
        entry.done.set_exception(error)
