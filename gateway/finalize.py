"""Ending a batch: its output files, its end in the store, its last event."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from google.protobuf import json_format

from gateway.convert import slide_to_message
from gateway.names import BatchName
from gateway.output import OutputWriter
from gateway.rounds import Round, Rounds
from gateway.turns import Turns
from gramserve import log
from gramserve.errors import Reason
from gramserve.metrics import Metrics
from gramserve.queue import Queue, Snapshot
from gramserve.store.batches import BatchStore
from gramserve.store.records import (
    BatchRecord,
    BatchState,
    Counts,
    ErrorRecord,
    FinalRecord,
    OutcomeRecord,
    SlideState,
    StopRecord,
)

# As many slides at a time as take the event loop some milliseconds.
_ROWS_TOGETHER = 64
_LOST = ErrorRecord(Reason.INTERNAL.value, "the result of this slide was lost; retry the batch")


class Finalizer:
    """Ends rounds whose slides have all ended. `clock` gives Unix seconds; Redis keeps events for `retention_s`."""

    def __init__(
        self,
        batches: BatchStore,
        rounds: Rounds,
        queue: Queue,
        metrics: Metrics,
        turns: Turns,
        *,
        clock: Callable[[], float],
        retention_s: float,
    ) -> None:
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._metrics = metrics
        self._turns = turns
        self._clock = clock
        self._retention_s = retention_s
        self._log = log.get()

    async def finalize(self, name: BatchName) -> bool:
        """Ends the current round; False when there is still something to do for others.

        Safe to repeat and to be done by two gateways: the store keeps one end, and both tell Redis.
        """
        async with self._turns.of(name):
            return await self._finalize(name)

    async def _finalize(self, name: BatchName) -> bool:
        record = await self._batches.get_batch(name.laboratory, name.batch)
        if record is None:  # a queue that outlived its store: nobody can ask for this batch
            return await self._queue.finish(name.key, BatchState.FAILED, retention_s=self._retention_s)
        current = await self._rounds.load(record)
        final = await self._batches.final(name.laboratory, name.batch, current.number)
        if final is None:
            snapshot = await self._queue.snapshot(name.key)
            if snapshot is None or snapshot.round != current.number or snapshot.live or not snapshot.submitted:
                return False
            if not await self._complete(name, current, snapshot):
                return False
            final = await self._end(name, record, current, snapshot)
        await self._queue.finish(name.key, final.state, expected_round=current.number, retention_s=self._retention_s)
        return True

    async def _complete(self, name: BatchName, current: Round, snapshot: Snapshot) -> bool:
        """Whether every slide has its outcome; asks for those that Redis counts as done and the store does not know."""
        missing = [] if snapshot.stopping else await self._rounds.remaining(name, current)
        if not missing:
            return True
        repaired = await self._queue.audit(name.key, missing)
        if repaired:
            self._metrics.count("reconcile_repairs", repaired, cause="missing")
            return False
        # Redis says that they were completed, which workers do after the outcome is durable: the store lost them.
        self._log.error("outcomes are missing in the store", slides=len(missing))
        for index in missing:
            lost = OutcomeRecord(index, current.number, SlideState.FAILED, error=_LOST, time=self._clock())
            await self._batches.record_outcome(name.laboratory, name.batch, lost)
        return True

    async def _end(self, name: BatchName, record: BatchRecord, current: Round, snapshot: Snapshot) -> FinalRecord:
        stop = await self._batches.get_stop(name.laboratory, name.batch, current.number)
        waiting = SlideState(snapshot.stopping) if snapshot.stopping else SlideState.EXPIRED
        states: list[SlideState] = []
        review, first = 0, snapshot.first_start_s
        for start in range(0, record.slide_count, 256):
            indices = range(start, min(start + 256, record.slide_count))
            outcomes = await self._rounds.outcomes(name, current.number, indices)
            for index in indices:
                outcome = outcomes.get(index)
                state = current.settled_before(index) or _state_of(outcome, current.number) or waiting
                states.append(state)
                if outcome is not None and outcome.state is state:
                    review += outcome.review_required
                    began = outcome.time - outcome.inference_s
                    first = began if first is None else min(first, began)
        by_state = Counter(states)
        counts = Counts(
            total=record.slide_count,
            succeeded=by_state[SlideState.SUCCEEDED],
            failed=by_state[SlideState.FAILED],
            cancelled=by_state[SlideState.CANCELLED],
            expired=by_state[SlideState.EXPIRED],
            review=review,
        )
        end, error = verdict(record, counts, stop)
        digest = await self._write(name, record, current.number, states, counts)
        wanted = FinalRecord(
            round=current.number,
            state=end,
            counts=counts,
            slide_states="".join(slide.letter for slide in states),
            manifest_digest=digest,
            error=error,
            start_time=first,
            end_time=self._clock(),
            last_sequence=snapshot.last_sequence + 1,
        )
        kept = await self._batches.finalize(name.laboratory, name.batch, wanted)
        if kept == wanted:
            self._metrics.count("batches_finished", state=end.value)
        elif kept.manifest_digest != digest:
            # Another gateway was faster and saw less: what it recorded counts, so the files must say the same.
            theirs = [SlideState.from_letter(letter) for letter in kept.slide_states]
            await self._write(name, record, current.number, theirs, kept.counts)
        return kept

    async def _write(
        self, name: BatchName, record: BatchRecord, number: int, states: Sequence[SlideState], counts: Counts
    ) -> str:
        writer = OutputWriter(self._batches, name, number)
        for start in range(0, record.slide_count, _ROWS_TOGETHER):
            indices = range(start, min(start + _ROWS_TOGETHER, record.slide_count))
            outcomes = await self._rounds.outcomes(name, number, indices)
            for index in indices:
                slide = await self._batches.slide(name.laboratory, name.batch, index)
                outcome, state = outcomes.get(index), states[index]
                told = outcome if outcome is not None and outcome.state is state else None
                message = slide_to_message(name, index, slide.slide_id, state, told)
                await writer.add(state, json_format.MessageToJson(message, indent=None).encode())
            await asyncio.sleep(0)
        return await writer.finish(record, counts)


def verdict(record: BatchRecord, counts: Counts, stop: StopRecord | None) -> tuple[BatchState, ErrorRecord | None]:
    """The state of a batch that has ended, and why it is not a success."""
    cause = stop.cause if stop else ""
    share = record.max_failed_ratio
    if cause == "CANCELLED" or (counts.cancelled and cause != "TOO_MANY_FAILURES"):
        return BatchState.CANCELLED, ErrorRecord(Reason.CANCELLED.value, "the batch was cancelled")
    if cause == "TOO_MANY_FAILURES" or (share and counts.failed / counts.total > share):
        return BatchState.FAILED, ErrorRecord(
            Reason.TOO_MANY_FAILURES.value, f"more slides failed than max_failed_ratio {share:g} allows"
        )
    if counts.expired:
        return BatchState.EXPIRED, ErrorRecord(
            Reason.EXPIRED.value, f"deliver_by passed; {counts.expired} slides did not start in time"
        )
    if counts.succeeded == counts.total:
        return BatchState.SUCCEEDED, None
    if not counts.succeeded:
        return BatchState.FAILED, ErrorRecord(Reason.TOO_MANY_FAILURES.value, "no slide has a result")
    return BatchState.PARTIALLY_SUCCEEDED, None


def _state_of(outcome: OutcomeRecord | None, number: int) -> SlideState | None:
    return outcome.state if outcome is not None and outcome.round == number else None
