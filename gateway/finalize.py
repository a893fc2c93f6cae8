"""Ending a batch: its output files, its end in the store, its last event."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gateway.convert import slide_to_message
from gateway.message_json import to_json
from gateway.names import BatchName
from gateway.output import OutputWriter
from gateway.rounds import Round, Rounds
from gateway.turns import Turns
from gramserve import log
from gramserve.access.principal import SYSTEM
from gramserve.errors import Reason
from gramserve.metrics import Metrics
from gramserve.queue import Queue, Snapshot
from gramserve.store.audit import AuditLog
from gramserve.store.audit_record import Action
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
from gramserve.tracing import OFF, Tracer

# As many slides at a time as take the event loop some milliseconds.
_ROWS_TOGETHER = 64
_LOST = ErrorRecord(Reason.INTERNAL.value, "the result of this slide was lost; retry the batch")


class Finalizer:
    """Ends rounds whose slides have all ended. `clock` gives Unix seconds.

    Redis keeps the events of what has ended for `retention_s`, and of `retention_slides` slides together.
    """

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
        retention_slides: int,
        audit: AuditLog,
        tracer: Tracer = OFF,
    ) -> None:
        self._tracer = tracer
        self._batches = batches
        self._rounds = rounds
        self._queue = queue
        self._metrics = metrics
        self._turns = turns
        self._clock = clock
        self._retention_s = retention_s
        self._retention_slides = retention_slides
        self._audit = audit
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
            return await self._tell(name, BatchState.FAILED)
        current = await self._rounds.load(record)
        final = await self._batches.final(name.laboratory, name.batch, current.number)
        began_s = self._clock()
        if final is None:
            snapshot = await self._queue.snapshot(name.key)
            if snapshot is None or snapshot.round != current.number or snapshot.live or not snapshot.submitted:
                return False
            delivery = await self._deliver(name, record, current, snapshot.stopping)
            if delivery.missing:
                if not await self._are_lost(name, current, delivery.missing):
                    return False
                delivery = await self._deliver(name, record, current, snapshot.stopping)
            final = await self._end(name, record, current, snapshot, delivery)
        told = await self._tell(name, final.state, current.number)
        if told and record.trace:
            span = self._tracer.go_on("deliver", record.trace, start_s=began_s)
            span.set(gramserve__state=final.state.value, gramserve__round=current.number)
            span.end()
        return True

    async def _tell(self, name: BatchName, state: BatchState, number: int | None = None) -> bool:
        return await self._queue.finish(
            name.key,
            state,
            expected_round=number,
            retention_s=self._retention_s,
            retention_slides=self._retention_slides,
        )

    async def _are_lost(self, name: BatchName, current: Round, missing: Sequence[int]) -> bool:
        """Asks Redis for slides that it counts as done and the store does not know; False when it has some of them."""
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

    async def _deliver(
        self, name: BatchName, record: BatchRecord, current: Round, stopping: str, known: str = ""
    ) -> _Delivery:
        """Reads every outcome once and writes the output from it, up to the first slide that misses its outcome.

        A slide that never ran gets the state `stopping`. `known`, where given, are the states that another gateway
        recorded: those count.
        """
        delivery = _Delivery(OutputWriter(self._batches, name, current.number))
        waiting = SlideState(stopping) if stopping else None
        for start in range(0, record.slide_count, _ROWS_TOGETHER):
            indices = range(start, min(start + _ROWS_TOGETHER, record.slide_count))
            outcomes = await self._rounds.outcomes(name, current.number, indices)
            slide_ids = await self._batches.slide_ids(name.laboratory, name.batch, indices)
            for index in indices:
                outcome = outcomes.get(index)
                state = (
                    SlideState.from_letter(known[index])
                    if known
                    else current.settled_before(index) or _state_of(outcome, current.number) or waiting
                )
                if state is None:
                    delivery.missing.append(index)
                    continue
                told = outcome if outcome is not None and outcome.state is state else None
                delivery.note(state, told)
                if not delivery.missing:
                    message = slide_to_message(name, index, slide_ids[index], state, told)
                    await delivery.writer.add(state, to_json(message))
            await asyncio.sleep(0)
        return delivery

    async def _end(
        self, name: BatchName, record: BatchRecord, current: Round, snapshot: Snapshot, delivery: _Delivery
    ) -> FinalRecord:
        stops = [
            await self._batches.get_stop(name.laboratory, name.batch, number) for number in range(current.number + 1)
        ]
        counts = delivery.counts()
        end, error = verdict(record, counts, stops)
        digest = await delivery.writer.finish(record, counts)
        began = [time for time in (snapshot.first_start_s, delivery.first_start_s) if time is not None]
        wanted = FinalRecord(
            round=current.number,
            state=end,
            counts=counts,
            slide_states="".join(delivery.letters),
            manifest_digest=digest,
            error=error,
            start_time=min(began, default=None),
            end_time=self._clock(),
            last_sequence=snapshot.last_sequence + 1,
        )
        await self._audit.record(
            Action.BATCH_DELIVER,
            name.resource,
            artifact=record.model_digest,
            actor=SYSTEM,
            round=current.number,
            manifest=digest,
            succeeded=counts.succeeded,
            failed=counts.total - counts.succeeded,
        )
        kept = await self._batches.finalize(name.laboratory, name.batch, wanted)
        if kept == wanted:
            self._metrics.count("batches_finished", state=end.value)
            self._count_stopped(current, delivery, stops[-1])
        elif kept.manifest_digest != digest:
            # Another gateway was faster and saw less: what it recorded counts, so the files must say the same.
            theirs = await self._deliver(name, record, current, "", kept.slide_states)
            await theirs.writer.finish(record, kept.counts)
        return kept

    def _count_stopped(self, current: Round, delivery: _Delivery, stop: StopRecord | None) -> None:
        """Count the slides of the round that no worker got: only a stop or a deadline ends those."""
        letters = Counter(delivery.letters[index] for index in current.indices)
        for state, reason in (
            (SlideState.CANCELLED, stop.cause if stop else "CANCELLED"),
            (SlideState.EXPIRED, "EXPIRED"),
        ):
            if slides := letters[state.letter]:
                self._metrics.count("slides_ended", slides, state=state.value, reason=reason)


@dataclass(slots=True)
class _Delivery:
    """What the outcomes of a round say: the files, a letter per slide, the slides that have none; times in Unix s."""

    writer: OutputWriter
    letters: list[str] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    review: int = 0
    first_start_s: float | None = None

    def note(self, state: SlideState, outcome: OutcomeRecord | None) -> None:
        """Takes the next slide."""
        self.letters.append(state.letter)
        if outcome is not None:
            self.review += outcome.review_required
            began_s = outcome.time - outcome.inference_s
            self.first_start_s = began_s if self.first_start_s is None else min(self.first_start_s, began_s)

    def counts(self) -> Counts:
        """The slides by state."""
        by_letter = Counter(self.letters)
        return Counts(
            total=len(self.letters),
            succeeded=by_letter[SlideState.SUCCEEDED.letter],
            failed=by_letter[SlideState.FAILED.letter],
            cancelled=by_letter[SlideState.CANCELLED.letter],
            expired=by_letter[SlideState.EXPIRED.letter],
            review=self.review,
        )


def verdict(
    record: BatchRecord, counts: Counts, stops: Sequence[StopRecord | None]
) -> tuple[BatchState, ErrorRecord | None]:
    """The state of a batch that has ended, and why it is not a success; `stops` are those of all its rounds."""
    cause = stops[-1].cause if stops[-1] else ""
    share = record.max_failed_ratio
    # Slides that an earlier round did not run since too many failed were cancelled by nobody.
    cancelled = counts.cancelled and {stop.cause for stop in stops if stop} != {"TOO_MANY_FAILURES"}
    if cause == "CANCELLED" or cancelled:
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
